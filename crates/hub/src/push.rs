//! Pushes: files become one commit of a repository.
//!
//! hf-hub sends the files: small ones within the commit, large ones to the Hub's storage before it, as the Hub decides
//! for each. Whether anything is to be sent is decided here, by the checksums of the Hub's listing.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hf_hub::progress::{ProgressEvent, ProgressHandler, UploadEvent};
use hf_hub::repository::{CommitInfo, CommitOperation, RepoTreeEntry};
use hf_hub::{HFClient, HFError, HFRepository, RepoTypeModel};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::cache::digest;
use crate::client::{Client, Failure, Refusal};
use crate::fetch::Fetch;
use crate::name::{Kind, RepoFile, is_hex};
use crate::watch::{PushStep, Watcher};
use crate::{Error, Hub};

/// The branch of a repository that was just created.
const MAIN: &str = "main";
/// The Hub takes files up to this size within the commit. While these are sent there is no progress to see.
const INLINE: u64 = 10 << 20;
/// The slowest connection on which a commit does not run into the time limit, in bytes per second.
const SLOWEST: u64 = 16 << 10;
/// How often a commit in progress is looked at.
const TICK: Duration = Duration::from_millis(100);

/// A file to be pushed: its path in the repository and its content.
#[derive(Clone)]
pub struct PushFile {
    path: String,
    content: Content,
}

#[derive(Clone)]
enum Content {
    File(PathBuf),
    Bytes(Arc<[u8]>),
}

impl PushFile {
    /// The file `from` of this machine, as `path` in the repository.
    pub fn file(path: impl Into<String>, from: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), content: Content::File(from.into()) }
    }

    /// These bytes, as `path` in the repository.
    pub fn bytes(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), content: Content::Bytes(bytes.into().into()) }
    }

    /// Its path in the repository.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its size in bytes.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub fn size(&self) -> Result<u64, Error> {
        match &self.content {
            Content::Bytes(bytes) => Ok(bytes.len() as u64),
            Content::File(path) => {
                let metadata = std::fs::metadata(path).map_err(unreadable(path))?;
                let no_file = || io::Error::new(io::ErrorKind::InvalidInput, "it is not a file");
                metadata.is_file().then_some(metadata.len()).ok_or_else(no_file).map_err(unreadable(path))
            }
        }
    }

    /// Whether the Hub's checksum is that of this file: SHA-256 for large files, git's blob hash for small ones.
    fn has(&self, checksum: &str) -> Result<bool, Error> {
        let found = match is_hex(checksum, 64) {
            true => self.digest(Sha256::new()),
            false => self.digest(Sha1::new_with_prefix(format!("blob {}\0", self.size()?))),
        };
        match &self.content {
            Content::File(path) => Ok(found.map_err(unreadable(path))? == checksum),
            Content::Bytes(_) => Ok(found.is_ok_and(|found| found == checksum)),
        }
    }

    fn digest<D: Digest>(&self, hasher: D) -> io::Result<String> {
        match &self.content {
            Content::File(path) => digest(hasher, File::open(path)?),
            Content::Bytes(bytes) => digest(hasher, bytes.as_ref()),
        }
    }

    fn operation(&self) -> CommitOperation {
        match &self.content {
            Content::File(path) => CommitOperation::add_file(&self.path, path),
            Content::Bytes(bytes) => CommitOperation::add_bytes(&self.path, bytes.to_vec()),
        }
    }
}

impl fmt::Debug for PushFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            Content::File(from) => write!(f, "{} from {}", self.path, from.display()),
            Content::Bytes(bytes) => write!(f, "{} of {} bytes", self.path, bytes.len()),
        }
    }
}

fn unreadable(path: &std::path::Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Unreadable { path, source }
}

type IsStale = dyn Fn(&str) -> bool + Send + Sync;

/// How files are pushed: by default to the branch `main` of a repository that is created, as a public one, if it does
/// not exist.
#[non_exhaustive]
pub struct PushOptions {
    /// The title of the commit.
    pub message: String,
    /// The branch; `main` if absent. A branch that does not exist begins at `main`. `refs/pr/N` adds to an open pull
    /// request.
    pub branch: Option<String>,
    /// Opens a pull request instead of changing the branch.
    pub pull_request: bool,
    /// Creates the repository as a private one. A public one that exists is an error.
    pub private: bool,
    /// A repository that exists is an error.
    pub create_only: bool,
    /// Chooses, by their paths, files of the repository to be deleted in the same commit. Pushed ones are not deleted.
    pub stale: Option<Box<IsStale>>,
}

impl PushOptions {
    /// The defaults, with this title of the commit.
    pub fn new(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { message, branch: None, pull_request: false, private: false, create_only: false, stale: None }
    }
}

impl fmt::Debug for PushOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushOptions")
            .field("message", &self.message)
            .field("branch", &self.branch)
            .field("pull_request", &self.pull_request)
            .field("private", &self.private)
            .field("create_only", &self.create_only)
            .field("stale", &self.stale.is_some())
            .finish()
    }
}

/// What a push changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pushed {
    /// The repository's page.
    pub url: String,
    /// The commit that holds the files: a new one, or the one that had them already.
    pub commit: String,
    /// The paths of the files that the new commit adds or changes; none if there is no new commit.
    pub sent: Vec<String>,
    /// The paths of the files that it deletes.
    pub deleted: Vec<String>,
    /// The page of the new pull request.
    pub pull_request: Option<String>,
}

impl Hub {
    /// Calls `watch` as a push proceeds.
    pub fn on_push(mut self, watch: impl Fn(PushStep) + Send + Sync + 'static) -> Self {
        self.watcher.pushes = Some(Arc::new(watch));
        self
    }

    /// Pushes `files` to the model `repo_id` (`owner/name`), in one commit, with the token of the configuration. Files
    /// that the repository has already are not sent; if it has all of them, there is no new commit.
    ///
    /// A push that fails or is interrupted leaves the files of the repository as they were, except that a repository
    /// or branch that did not exist may have been created. Pushing again completes it.
    ///
    /// ```
    /// use kakusan_hub::{Error, Hub, HubConfig, PushFile, PushOptions};
    ///
    /// let hub = Hub::new(HubConfig::new("https://huggingface.co", "no/such/cache"));
    /// let card = PushFile::bytes("README.md", "# Digits\n");
    /// let files = [card, PushFile::file("unet/config.json", "run/unet/config.json")];
    /// let error = hub.push("ada/digits", &files, &PushOptions::new("The first version")).unwrap_err();
    /// assert!(matches!(error, Error::NoToken { .. })); // as with `HubConfig::from_env` before HF_TOKEN is set
    /// ```
    ///
    /// # Errors
    /// [`Error::NoToken`], [`Error::OfflinePush`], [`Error::Name`] and [`Error::Unreadable`] before any connection;
    /// [`Error::Exists`] and [`Error::Taken`]; [`Error::Denied`] for a token that may not write; [`Error::Full`],
    /// [`Error::Invalid`], [`Error::Moved`], [`Error::Upload`]; and the errors of the connection, as for downloads.
    pub fn push(&self, repo_id: &str, files: &[PushFile], options: &PushOptions) -> Result<Pushed, Error> {
        let (config, watcher) = (self.config(), &self.watcher);
        let branch = options.branch.as_deref().unwrap_or(MAIN);
        let mut size = 0;
        let mut names = BTreeSet::new();
        for file in files {
            RepoFile::new(Kind::Model, repo_id, branch, &file.path)?;
            if !names.insert(file.path.as_str()) {
                let (value, reason) = (file.path.clone(), "another file of the push has this name");
                return Err(Error::Name { what: "file name", value, reason });
            }
        }
        if options.pull_request && branch != MAIN {
            let (value, reason) =
                (branch.to_owned(), "a pull request is opened for `main`; to add to one, push to refs/pr/N");
            return Err(Error::Name { what: "revision", value, reason });
        }
        let Some((owner, name)) = repo_id.split_once('/') else {
            let reason = "expected \"owner/name\", where the owner is an account or an organization";
            return Err(Error::Name { what: "repository id", value: repo_id.to_owned(), reason });
        };
        if config.offline {
            return Err(Error::OfflinePush { repo: repo_id.to_owned() });
        }
        let endpoint = config.check()?.as_str().trim_end_matches('/').to_owned();
        if config.token.is_none() {
            return Err(Error::NoToken { endpoint, repo: repo_id.to_owned() });
        }
        for file in files {
            size += Some(file.size()?).filter(|size| *size <= INLINE).unwrap_or_default();
        }
        let client = Client { config, watcher, what: format!("the push to {repo_id} at {branch}"), name: repo_id };
        let limit = config.upload_timeout + Duration::from_secs(size / SLOWEST);
        let push = Push { client, repo_id, owner, name, branch, files, options, limit, asked: AtomicBool::new(false) };
        push.run()
    }
}

/// One push.
struct Push<'a> {
    client: Client<'a>,
    repo_id: &'a str,
    owner: &'a str,
    name: &'a str,
    branch: &'a str,
    files: &'a [PushFile],
    options: &'a PushOptions,
    /// Time limit without progress.
    limit: Duration,
    /// Whether the Hub was asked to create the repository, so that it may exist even if the answer was lost.
    asked: AtomicBool,
}

/// The state of the branch.
struct Listing {
    commit: Option<String>,
    private: Option<bool>,
    files: BTreeSet<String>,
}

/// What is to be committed.
#[derive(Default)]
struct Changes<'a> {
    files: Vec<&'a PushFile>,
    deleted: Vec<String>,
}

impl Push<'_> {
    fn run(&self) -> Result<Pushed, Error> {
        // the time limit of a commit depends on its progress, see `commit`
        let hub = self.client.hub(None)?;
        self.client.run(async || {
            let repo = hub.model(self.owner, self.name);
            self.client.retry(Error::is_temporary, async || self.prepare(&hub, &repo).await).await?;
            // A commit whose answer was lost may have arrived: each attempt begins with what is there.
            let again = if self.options.pull_request { Error::asks_to_wait } else { Error::is_temporary };
            let sent = Mutex::new(vec![]);
            let pushed = self.client.retry(again, async || self.attempt(&repo, &sent).await).await?;
            let sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(if pushed.sent.is_empty() { Pushed { sent: sent.clone(), ..pushed } } else { pushed })
        })
    }

    /// Makes sure that the repository and the branch exist.
    async fn prepare(&self, hub: &HFClient, repo: &HFRepository<RepoTypeModel>) -> Result<(), Error> {
        let missing = match self.list(repo, self.branch).await {
            Ok(listing) => return self.check_existing(&listing),
            Err(Error::NotFound { missing, .. }) => missing,
            Err(error) => return Err(error),
        };
        if missing != "revision" {
            match self.create(hub).await {
                Ok(()) => self.client.watcher.report_push(PushStep::Created { name: self.repo_id, branch: false }),
                // it exists: the branch is missing, or it is no model
                Err(Error::Exists { .. }) => match self.list(repo, MAIN).await {
                    Ok(listing) => self.check_existing(&listing)?,
                    Err(Error::NotFound { .. }) => {
                        let (endpoint, repo) = (self.client.endpoint(), self.repo_id.to_owned());
                        return Err(Error::Taken { endpoint, repo });
                    }
                    Err(error) => return Err(error),
                },
                Err(error) => return Err(error),
            }
        } else {
            self.check_existing(&self.list(repo, MAIN).await?)?;
        }
        if self.branch == MAIN || self.branch.starts_with("refs/") {
            return Ok(());
        }
        match self.within(repo.create_branch().branch(self.branch).send()).await? {
            Ok(()) => self.client.watcher.report_push(PushStep::Created { name: self.branch, branch: true }),
            Err(error) => match self.translate(error) {
                Error::Moved { status: 409, .. } => {} // it exists
                error => return Err(error),
            },
        }
        Ok(())
    }

    /// Refuses a repository that the options exclude.
    fn check_existing(&self, listing: &Listing) -> Result<(), Error> {
        let public = self.options.private && listing.private == Some(false);
        let create_only = self.options.create_only && !self.asked.load(Ordering::Relaxed);
        let remedy = match (create_only, public) {
            (true, _) => "choose another name, or push without asking for a new repository".to_owned(),
            (false, true) => format!(
                "make it private at {}/{}/settings, or push without asking for a private one",
                self.client.endpoint(),
                self.repo_id
            ),
            (false, false) => return Ok(()),
        };
        Err(Error::Exists { repo: self.repo_id.to_owned(), public, remedy })
    }

    async fn create(&self, hub: &HFClient) -> Result<(), Error> {
        self.asked.store(true, Ordering::Relaxed);
        let request = hub.create_repository().repo_id(self.repo_id).repo_type(RepoTypeModel);
        let request = request.private(self.options.private).send();
        match self.within(request).await? {
            Ok(_) => Ok(()),
            Err(error) => Err(match self.translate(error) {
                Error::Moved { status: 409, .. } => {
                    Error::Exists { repo: self.repo_id.to_owned(), public: false, remedy: String::new() }
                }
                error => error,
            }),
        }
    }

    /// Compares the files with those of the branch, and commits the differences, if there are any. `sent` keeps the
    /// paths of what a commit without an answer held.
    async fn attempt(&self, repo: &HFRepository<RepoTypeModel>, sent: &Mutex<Vec<String>>) -> Result<Pushed, Error> {
        let listing = self.list(repo, self.branch).await?;
        let changes = self.changes(repo, &listing).await?;
        let url = format!("{}/{}", self.client.endpoint(), self.repo_id);
        let paths: Vec<String> = changes.files.iter().map(|file| file.path.clone()).collect();
        let mut pushed = Pushed { url, commit: String::new(), sent: vec![], deleted: vec![], pull_request: None };
        if paths.is_empty() && changes.deleted.is_empty() {
            pushed.commit = listing.commit.unwrap_or_default();
            return Ok(pushed);
        }
        sent.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&paths);
        let info = self.commit(repo, &listing, &changes).await?;
        pushed.commit = info.commit_oid.unwrap_or_default();
        if self.options.pull_request {
            pushed.pull_request = Some(self.pull_request(repo, &pushed, info.pr_url).await);
        }
        Ok(Pushed { sent: paths, deleted: changes.deleted, ..pushed })
    }

    /// The page of the pull request that was opened. hf-hub 1.0 does not read it from the answer, so its number is that
    /// of the reference to its commit; without an answer, the page of all pull requests must do.
    async fn pull_request(&self, repo: &HFRepository<RepoTypeModel>, pushed: &Pushed, known: Option<String>) -> String {
        let refs = self.within(repo.list_refs().include_pull_requests(true).send()).await;
        let refs = refs.ok().and_then(Result::ok).map(|refs| refs.pull_requests).unwrap_or_default();
        let own = refs.iter().find(|reference| reference.target_commit == pushed.commit);
        let number = own.and_then(|own| own.git_ref.strip_prefix("refs/pr/"));
        let page = || match number {
            Some(number) => format!("{}/discussions/{number}", pushed.url),
            None => format!("{}/discussions", pushed.url),
        };
        known.unwrap_or_else(page)
    }

    async fn changes(&self, repo: &HFRepository<RepoTypeModel>, listing: &Listing) -> Result<Changes<'_>, Error> {
        let (known, new): (Vec<_>, Vec<_>) = self.files.iter().partition(|file| listing.files.contains(&file.path));
        let mut changes = Changes { files: new, ..Changes::default() };
        if !known.is_empty() {
            let revision = listing.commit.as_deref().unwrap_or(self.branch);
            let paths = known.iter().map(|file| file.path.clone()).collect();
            let entries = self.within(repo.get_paths_info().paths(paths).revision(revision).send()).await?;
            let entries = entries.map_err(|error| self.translate(error))?;
            for file in known {
                if !self.is_listed(file, &entries, revision).await? {
                    changes.files.push(file);
                }
            }
        }
        if let Some(is_stale) = &self.options.stale {
            let pushed: BTreeSet<&str> = self.files.iter().map(PushFile::path).collect();
            let others = listing.files.iter().filter(|path| !pushed.contains(path.as_str()));
            changes.deleted = others.filter(|path| is_stale(path)).cloned().collect();
        }
        Ok(changes)
    }

    /// Whether the Hub has this file at this revision, according to its listing.
    async fn is_listed(&self, file: &PushFile, entries: &[RepoTreeEntry], revision: &str) -> Result<bool, Error> {
        let found = entries.iter().find_map(|entry| match entry {
            RepoTreeEntry::File { oid, size, path, lfs, .. } if *path == file.path => Some((oid, *size, lfs)),
            _ => None,
        });
        let Some((oid, size, lfs)) = found else { return Ok(false) };
        if size != file.size()? {
            return Ok(false);
        }
        if lfs.is_none() {
            return file.has(oid);
        }
        // The listing has the checksum of a large file, which hf-hub 1.0 does not read; so have the headers.
        let (config, watcher) = (self.client.config, self.client.watcher);
        let fetch = Fetch::new(config, watcher, RepoFile::new(Kind::Model, self.repo_id, revision, &file.path)?);
        file.has(&fetch.ask_within(config.etag_timeout, &config.check()?).await?.etag)
    }

    /// The branch's commit and files.
    async fn list(&self, repo: &HFRepository<RepoTypeModel>, branch: &str) -> Result<Listing, Error> {
        let expand = ["sha", "private", "siblings"].map(str::to_owned).to_vec();
        let info = self.within(repo.info().revision(branch).expand(expand).send()).await?;
        let info = info.map_err(|error| self.translate(error))?;
        let files = info.siblings.unwrap_or_default().into_iter().map(|file| file.rfilename).collect();
        Ok(Listing { commit: info.sha, private: info.private, files })
    }

    /// Sends the files and makes the commit. The time limit is one without progress: files may be large.
    async fn commit(
        &self,
        repo: &HFRepository<RepoTypeModel>,
        listing: &Listing,
        changes: &Changes<'_>,
    ) -> Result<CommitInfo, Error> {
        let adds = changes.files.iter().map(|file| file.operation());
        let operations = adds.chain(changes.deleted.iter().map(CommitOperation::delete)).collect();
        let progress = Progress::new(self.client.watcher);
        let moment = progress.moment.clone();
        let pull_request = self.options.pull_request;
        let request = repo.create_commit().operations(operations).commit_message(&self.options.message);
        let request = request.revision(self.branch).create_pr(pull_request).progress(progress);
        // if the branch has moved since it was listed, the Hub refuses the commit
        let parent = listing.commit.clone().filter(|_| !pull_request);
        let mut request = pin!(request.maybe_parent_commit(parent).send());
        let answer = loop {
            match tokio::time::timeout(TICK, request.as_mut()).await {
                Ok(answer) => break answer,
                Err(_) => {
                    let since = moment.lock().unwrap_or_else(PoisonError::into_inner).1;
                    if since.elapsed() >= self.limit {
                        return Err(self.client.timeout(self.limit));
                    }
                }
            }
        };
        answer.map_err(|error| self.translate(error))
    }

    /// The answer to a small request, within the time limit of a listing.
    async fn within<T>(&self, request: impl Future<Output = T>) -> Result<T, Error> {
        let limit = self.client.config.etag_timeout + self.client.config.download_timeout;
        tokio::time::timeout(limit, request).await.map_err(|_| self.client.timeout(limit))
    }

    fn translate(&self, error: HFError) -> Error {
        match self.client.failure(error, self.limit) {
            Failure::Refused(refusal) => self.refusal(refusal),
            Failure::Transfer(reason) => {
                Error::Upload { endpoint: self.client.endpoint(), file: self.client.what.clone(), reason }
            }
            Failure::Other(error) => error,
        }
    }

    fn refusal(&self, refusal: Refusal) -> Error {
        let (endpoint, file) = (self.client.endpoint(), self.client.what.clone());
        let Refusal { status, code, retry_after, reason } = refusal;
        let names_limit = || {
            let reason = reason.to_lowercase();
            reason.contains("storage") && ["limit", "quota"].iter().any(|word| reason.contains(word))
        };
        let new_token = format!("{endpoint}/settings/tokens");
        match status {
            402 | 413 | 507 => Error::Full { endpoint, file, status },
            403 if names_limit() => Error::Full { endpoint, file, status },
            401 => {
                let remedy = format!("HF_TOKEN is wrong or has expired: create one that may write at {new_token}");
                Error::Denied { endpoint, file, status, remedy }
            }
            403 => {
                let remedy = format!(
                    "HF_TOKEN may only read, or its account may not write to repositories of {}: create one that may \
                     write at {new_token}, or push to a repository of your own",
                    self.owner
                );
                Error::Denied { endpoint, file, status, remedy }
            }
            404 => {
                let missing = match code.as_str() {
                    "RevisionNotFound" => "revision",
                    _ => "repository",
                };
                Error::NotFound { endpoint, file, missing }
            }
            409 | 412 => Error::Moved { file, status },
            429 => Error::RateLimited { endpoint, retry_after },
            400 | 422 => {
                let reason = if reason.is_empty() { "it gives no reason".to_owned() } else { reason };
                Error::Invalid { endpoint, file, status, reason }
            }
            _ => Error::Status { endpoint, file, status, retry_after },
        }
    }
}

/// Follows a commit.
struct Progress {
    watcher: Watcher,
    /// The bytes that have been sent, and when that was last more than before.
    moment: Arc<Mutex<(u64, Instant)>>,
}

impl Progress {
    fn new(watcher: &Watcher) -> Self {
        Self { watcher: watcher.clone(), moment: Arc::new(Mutex::new((0, Instant::now()))) }
    }

    /// Notes that `sent` bytes have been sent.
    fn note(&self, sent: u64) {
        let mut moment = self.moment.lock().unwrap_or_else(PoisonError::into_inner);
        if sent > moment.0 {
            *moment = (sent, Instant::now());
        }
    }
}

impl ProgressHandler for Progress {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Upload(event) = event else { return };
        match *event {
            UploadEvent::Progress { bytes_completed, total_bytes, transfer_bytes_completed, .. } => {
                self.note(bytes_completed.saturating_add(transfer_bytes_completed));
                self.watcher.report_push(PushStep::Sending { sent: bytes_completed, size: total_bytes });
            }
            UploadEvent::Committing => {
                self.note(u64::MAX); // the Hub has its own time for the commit
                self.watcher.report_push(PushStep::Committing);
            }
            _ => {}
        }
    }
}
