//! Repositories that can be written, for the fake Hub: by the protocol of the Hub's commits, with branches, pull
//! requests, small files within the commit, and large ones by its storage. `tests/python/hub.py` has Python's
//! `huggingface_hub` speak with it.

#![allow(dead_code)] // each test file uses its own part

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};

use crate::fake_hub::{Answer, FakeHub, Request, sha256};

/// A token that may write to the repositories of `ada`.
pub(crate) const WRITE: &str = "hf_may_write_0123456789";
/// A token that may only read.
pub(crate) const READ: &str = "hf_may_read_0123456789";

/// The files of a commit: their bytes, and whether they are in the storage for large ones.
type Files = BTreeMap<String, (Arc<Vec<u8>>, bool)>;

/// A fault of one kind of request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Trouble {
    /// This status, this `X-Error-Code`, these header lines and this reason.
    Refuse(u16, &'static str, &'static str, &'static str),
    /// Does what was asked, and closes the connection instead of an answer.
    NoAnswer,
    /// Closes the connection in the middle of the request.
    Close,
    /// Never answers.
    Silent,
    /// Does so as often, and is well afterwards.
    Times(usize, Box<Trouble>),
    /// Another commit arrives just before.
    Overtaken,
}

#[derive(Default)]
pub(crate) struct Repo {
    pub(crate) private: bool,
    /// The commits of each branch, oldest first: an id, a title and all files.
    pub(crate) branches: BTreeMap<String, Vec<(String, String, Files)>>,
}

#[derive(Default)]
struct State {
    repos: BTreeMap<String, Repo>,
    /// What a request's path contains → the trouble.
    troubles: Vec<(&'static str, Trouble)>,
    /// The end of the names of files for the storage.
    large: Option<&'static str>,
    /// What the storage received.
    stored: Vec<u8>,
    commits: usize,
    /// The names that other kinds of repositories have.
    taken: Vec<String>,
}

/// The repositories of a fake Hub.
pub(crate) struct FakeRepos {
    state: Arc<Mutex<State>>,
}

impl FakeRepos {
    /// Adds repositories to the Hub. Files that it serves itself come first.
    pub(crate) fn on(hub: &FakeHub) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, url) = (state.clone(), hub.url().to_owned());
        hub.answer_with(move |request, body| answer(&shared, &url, request, body));
        Self { state }
    }

    /// From now on, requests whose path contains `part` have this trouble, and no others.
    pub(crate) fn trouble(&self, part: &'static str, trouble: impl Into<Option<Trouble>>) {
        let troubles = trouble.into().map(|trouble| (part, trouble));
        self.state().troubles = troubles.into_iter().collect();
    }

    /// Files whose names end so are sent to the storage.
    pub(crate) fn large(&self, end: &'static str) {
        self.state().large = Some(end);
    }

    /// The name is that of a data set.
    pub(crate) fn take(&self, repo: &str) {
        self.state().taken.push(repo.to_owned());
    }

    /// Creates a repository as the Hub does, with a first commit.
    pub(crate) fn create(&self, repo: &str, private: bool) {
        self.state().create(repo, private);
    }

    /// The titles of a branch's commits, oldest first; `None` if there is no such branch.
    pub(crate) fn titles(&self, repo: &str, branch: &str) -> Option<Vec<String>> {
        let state = self.state();
        let commits = state.repos.get(repo)?.branches.get(branch)?;
        Some(commits.iter().map(|(_, title, _)| title.clone()).collect())
    }

    /// The newest files of a branch.
    pub(crate) fn files(&self, repo: &str, branch: &str) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let commits = state.repos.get(repo).and_then(|repo| repo.branches.get(branch));
        let files = commits.and_then(|commits| commits.last()).map(|(_, _, files)| files.clone()).unwrap_or_default();
        files.into_iter().map(|(path, (bytes, _))| (path, bytes.to_vec())).collect()
    }

    pub(crate) fn is_private(&self, repo: &str) -> Option<bool> {
        self.state().repos.get(repo).map(|repo| repo.private)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread of ours panics")
    }
}

impl State {
    fn create(&mut self, repo: &str, private: bool) {
        let files =
            Files::from([(".gitattributes".to_owned(), (Arc::new(b"*.safetensors filter=lfs\n".to_vec()), false))]);
        let commit = (self.next_commit(), "initial commit".to_owned(), files);
        let branches = BTreeMap::from([("main".to_owned(), vec![commit])]);
        self.repos.insert(repo.to_owned(), Repo { private, branches });
    }

    fn next_commit(&mut self) -> String {
        self.commits += 1;
        format!("{:040x}", self.commits)
    }

    /// The commit that a branch or a commit id names.
    fn find(&self, repo: &str, revision: &str) -> Option<&(String, String, Files)> {
        let repo = self.repos.get(repo)?;
        let newest = repo.branches.get(revision).and_then(|commits| commits.last());
        newest.or_else(|| repo.branches.values().flatten().find(|(id, _, _)| id == revision))
    }
}

fn refuse(status: u16, code: &str, reason: &str) -> Answer {
    let headers = format!("X-Error-Code: {code}\r\nX-Error-Message: {reason}\r\n");
    Answer::Send(format!("{status} No"), headers, json!({ "error": reason }).to_string().into_bytes())
}

fn ok(body: Value) -> Answer {
    let headers = "Content-Type: application/json\r\n".to_owned();
    Answer::Send("200 OK".to_owned(), headers, body.to_string().into_bytes())
}

/// Answers a request that is about a repository which can be written.
fn answer(state: &Mutex<State>, url: &str, request: &Request, body: &[u8]) -> Option<Answer> {
    let path = request.path.split('?').next().unwrap_or_default();
    let mut state = state.lock().expect("no thread of ours panics");
    let mut after = None;
    if let Some(at) = state.troubles.iter().position(|(part, _)| request.path.contains(part)) {
        let trouble = match state.troubles[at].1.clone() {
            Trouble::Times(times, of_them) => {
                match times {
                    1 => drop(state.troubles.remove(at)),
                    _ => state.troubles[at].1 = Trouble::Times(times - 1, of_them.clone()),
                }
                *of_them
            }
            trouble => trouble,
        };
        match trouble {
            Trouble::Refuse(status, code, headers, reason) => {
                let Answer::Send(status, more, body) = refuse(status, code, reason) else { return None };
                return Some(Answer::Send(status, more + headers, body));
            }
            Trouble::Close => return Some(Answer::Close),
            Trouble::Silent => return Some(Answer::Wait(Duration::from_secs(60))),
            trouble => after = Some(trouble),
        }
    }
    if after == Some(Trouble::Overtaken) {
        let id = state.next_commit();
        for commits in state.repos.values_mut().filter_map(|repo| repo.branches.get_mut("main")) {
            let files = commits.last().map(|(_, _, files)| files.clone()).unwrap_or_default();
            commits.push((id.clone(), "overtaken".to_owned(), files));
        }
    }
    let answer = route(&mut state, url, request, path, body);
    if after == Some(Trouble::NoAnswer) && answer.is_some() { Some(Answer::Close) } else { answer }
}

fn route(state: &mut State, url: &str, request: &Request, path: &str, body: &[u8]) -> Option<Answer> {
    if path.starts_with("/cas/") {
        return Some(storage(state, path, body));
    }
    let token = request.authorization.as_deref().and_then(|value| value.strip_prefix("Bearer "));
    if path == "/api/repos/create" {
        let body: Value = serde_json::from_slice(body).ok()?;
        let owner = body["organization"].as_str().unwrap_or("ada");
        let repo = format!("{owner}/{}", body["name"].as_str()?);
        return Some(match token {
            None => refuse(401, "", "Invalid username or password."),
            Some(token) if token != WRITE || owner != "ada" => refuse(403, "", "You do not have the rights"),
            _ if state.repos.contains_key(&repo) || state.taken.contains(&repo) => {
                let Answer::Send(status, headers, _) = refuse(409, "", "You already created this repo") else {
                    return None;
                };
                let body = json!({ "error": "You already created this repo", "url": format!("{url}/{repo}") });
                Answer::Send(status, headers, body.to_string().into_bytes())
            }
            _ => {
                state.create(&repo, body["private"] == true || body["visibility"] == "private");
                ok(json!({ "url": format!("{url}/{repo}"), "name": repo }))
            }
        });
    }
    let is_known = |token: Option<&str>| matches!(token, Some(WRITE | READ));
    if let Some(rest) = path.strip_prefix("/api/models/") {
        let parts: Vec<&str> = rest.splitn(5, '/').collect();
        let (repo, verb) =
            (format!("{}/{}", parts.first()?, parts.get(1)?), parts.get(2).copied().unwrap_or("revision"));
        let revision = parts.get(3).unwrap_or(&"main").replace("%2F", "/");
        let seen = state.repos.get(&repo).is_some_and(|repo| !repo.private || is_known(token));
        if !seen {
            return None; // the fake Hub knows it, or answers 404
        }
        return Some(model(state, url, request, &repo, verb, &revision, token, body));
    }
    if let Some(repo) = path.strip_suffix(".git/info/lfs/objects/batch") {
        let body: Value = serde_json::from_slice(body).ok()?;
        let may = state.repos.contains_key(&repo[1..]) && token == Some(WRITE);
        return Some(match may {
            true => ok(json!({ "transfer": "xet", "objects": body["objects"] })),
            false => refuse(403, "", "You do not have the rights"),
        });
    }
    let (repo, rest) = path[1..].split_once("/resolve/")?;
    let (revision, file) = rest.split_once('/')?;
    if state.repos.get(repo).is_some_and(|repo| repo.private) && !is_known(token) {
        return Some(refuse(401, "RepoNotFound", "Repository not found"));
    }
    let (commit, _, files) = state.find(repo, &revision.replace("%2F", "/"))?;
    let Some((bytes, large)) = files.get(file) else { return Some(refuse(404, "EntryNotFound", "Entry not found")) };
    let etag = if *large { sha256(bytes) } else { git_oid(bytes) };
    let headers = format!("ETag: \"{etag}\"\r\nX-Repo-Commit: {commit}\r\nAccept-Ranges: bytes\r\n");
    Some(Answer::Send("200 OK".to_owned(), headers, bytes.to_vec()))
}

#[expect(clippy::too_many_arguments, reason = "a request, taken apart")]
fn model(
    state: &mut State,
    url: &str,
    request: &Request,
    repo: &str,
    verb: &str,
    revision: &str,
    token: Option<&str>,
    body: &[u8],
) -> Answer {
    let found = state.find(repo, revision).cloned();
    let may_write = token == Some(WRITE) && repo.starts_with("ada/");
    let pull_request = request.path.contains("create_pr=1");
    if ["commit", "branch", "preupload", "xet-write-token"].contains(&verb) && !may_write && !pull_request {
        return refuse(403, "", "You do not have the rights");
    }
    if verb == "branch" {
        let Some(main) = state.find(repo, "main").cloned() else { return refuse(404, "RevisionNotFound", "none") };
        let branches = state.repos.get_mut(repo).map(|repo| &mut repo.branches);
        return match branches.filter(|branches| !branches.contains_key(revision)) {
            Some(branches) => {
                branches.insert(revision.to_owned(), vec![main]);
                ok(json!({}))
            }
            None => refuse(409, "", "Reference already exists"),
        };
    }
    if verb == "refs" {
        let branches = state.repos.get(repo).into_iter().flat_map(|repo| &repo.branches);
        let requests = branches.filter_map(|(name, commits)| {
            Some(json!({ "name": name.strip_prefix("refs/pr/")?, "ref": name, "targetCommit": commits.last()?.0 }))
        });
        let requests: Vec<Value> = requests.collect();
        return ok(json!({ "branches": [], "tags": [], "converts": [], "pullRequests": requests }));
    }
    let Some((id, _, files)) = found else { return refuse(404, "RevisionNotFound", "Invalid rev id") };
    let entry = |path: &String| {
        let (bytes, large) = files.get(path)?;
        let mut entry = json!({ "type": "file", "path": path, "size": bytes.len(), "oid": git_oid(bytes) });
        if *large {
            entry["lfs"] = json!({ "oid": sha256(bytes), "size": bytes.len(), "pointerSize": 134 });
        }
        Some(entry)
    };
    let body: Value = match verb {
        "commit" => return commit(state, url, repo, revision, &id, files, pull_request, body),
        _ => serde_json::from_slice(body).unwrap_or_default(),
    };
    match verb {
        "revision" => {
            let names: Vec<Value> = files.keys().map(|name| json!({ "rfilename": name })).collect();
            let private = state.repos.get(repo).is_some_and(|repo| repo.private);
            ok(json!({ "_id": "1", "id": repo, "sha": id, "private": private, "siblings": names, "tags": [] }))
        }
        "tree" => ok(files.keys().filter_map(entry).collect()),
        "paths-info" => {
            let paths: Vec<String> = serde_json::from_value(body["paths"].clone()).unwrap_or_default();
            ok(paths.iter().filter_map(entry).collect())
        }
        "preupload" => {
            let mode = |file: &Value| {
                let path = file["path"].as_str().unwrap_or_default();
                let large = state.large.is_some_and(|end| path.ends_with(end));
                let mode = if large { "lfs" } else { "regular" };
                json!({ "path": path, "uploadMode": mode, "shouldIgnore": false })
            };
            ok(json!({ "files": body["files"].as_array().into_iter().flatten().map(mode).collect::<Vec<_>>() }))
        }
        "xet-write-token" => ok(
            json!({ "accessToken": "cas_token_0123456789", "exp": 4_000_000_000u64, "casUrl": format!("{url}/cas") }),
        ),
        _ => refuse(404, "EntryNotFound", "no such request"),
    }
}

#[expect(clippy::too_many_arguments, reason = "a request, taken apart")]
fn commit(
    state: &mut State,
    url: &str,
    repo: &str,
    branch: &str,
    parent: &str,
    mut files: Files,
    pull_request: bool,
    body: &[u8],
) -> Answer {
    let mut title = String::new();
    for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let Ok(line) = serde_json::from_slice::<Value>(line) else { return refuse(400, "", "invalid line") };
        let value = &line["value"];
        let path = value["path"].as_str().unwrap_or_default().to_owned();
        match line["key"].as_str() {
            Some("header") => {
                title = value["summary"].as_str().unwrap_or_default().to_owned();
                if value["parentCommit"].as_str().is_some_and(|expected| expected != parent) {
                    return refuse(412, "", "A commit has happened since. Please refresh and try again.");
                }
            }
            Some("file") => {
                let Some(bytes) = value["content"].as_str().and_then(from_base64) else {
                    return refuse(400, "", "invalid base64");
                };
                files.insert(path, (Arc::new(bytes), false));
            }
            Some("lfsFile") => {
                let (oid, bytes) = (value["oid"].as_str().unwrap_or_default(), state.stored.clone());
                if sha256(&bytes) != oid || value["size"] != bytes.len() {
                    return refuse(400, "", "the storage has no such file");
                }
                files.insert(path, (Arc::new(bytes), true));
            }
            Some("deletedFile") => drop(files.remove(&path)),
            _ => return refuse(400, "", "unknown operation"),
        }
    }
    let id = state.next_commit();
    let commit = (id.clone(), title, files);
    let Some(repository) = state.repos.get_mut(repo) else { return refuse(404, "RepoNotFound", "none") };
    let mut answer = json!({ "success": true, "commitOid": id, "commitUrl": format!("{url}/{repo}/commit/{id}") });
    if pull_request {
        let number = repository.branches.keys().filter(|name| name.starts_with("refs/pr/")).count() + 1;
        answer["pullRequestUrl"] = json!(format!("{url}/{repo}/discussions/{number}"));
        repository.branches.insert(format!("refs/pr/{number}"), vec![commit]);
    } else if let Some(commits) = repository.branches.get_mut(branch) {
        commits.push(commit);
    }
    ok(answer)
}

/// The storage for large files: keeps the chunks of a xorb that are not compressed.
fn storage(state: &mut State, path: &str, body: &[u8]) -> Answer {
    if path.starts_with("/cas/v1/xorbs/") {
        state.stored.clear();
        let mut rest = body;
        // version, compressed length, scheme, length; the footer begins with "XETBLOB"
        while let [_, a, b, c, 0, _, _, _, data @ ..] = rest {
            let length = usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16;
            if rest.starts_with(b"XETBLOB") || data.len() < length {
                break;
            }
            state.stored.extend_from_slice(&data[..length]);
            rest = &data[length..];
        }
        return ok(json!({ "was_inserted": true }));
    }
    match path {
        "/cas/v1/shards" => ok(json!({ "result": 1 })),
        _ => refuse(404, "", "none"), // the client then asks for the older requests
    }
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let value = |byte: u8| -> Option<u32> {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        Some(alphabet.iter().position(|letter| *letter == byte)? as u32)
    };
    let mut bytes = vec![];
    for four in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = four.iter().try_fold(0u32, |bits, byte| Some(bits << 6 | value(*byte)?))? << (6 * (4 - four.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    Some(bytes)
}

/// The name of git's blob: SHA-1 (FIPS 180-4) of a header and the bytes.
pub(crate) fn git_oid(bytes: &[u8]) -> String {
    let mut padded = format!("blob {}\0", bytes.len()).into_bytes();
    padded.extend_from_slice(bytes);
    let bits = padded.len() as u64 * 8;
    padded.push(0x80);
    padded.resize(padded.len() + (120 - padded.len() % 64) % 64, 0);
    padded.extend(bits.to_be_bytes());
    let mut hash = [0x6745_2301u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    for block in padded.chunks_exact(64) {
        let mut w = [0u32; 80];
        for (word, bytes) in w.iter_mut().zip(block.chunks_exact(4)) {
            *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        for i in 16..80 {
            w[i] = (w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = hash;
        for (i, word) in w.iter().enumerate() {
            let (f, k) = match i {
                0..20 => ((b & c) | (!b & d), 0x5a82_7999),
                20..40 => (b ^ c ^ d, 0x6ed9_eba1),
                40..60 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6u32),
            };
            let next = a.rotate_left(5).wrapping_add(f).wrapping_add(e).wrapping_add(k).wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (sum, value) in hash.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(value);
        }
    }
    hash.iter().map(|word| format!("{word:08x}")).collect()
}
