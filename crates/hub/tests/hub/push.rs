//! Pushes: one commit, none for the same files, and no change of the repository by a push that fails.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kakusan_hub::{Error, Hub, PushFile, PushOptions, PushStep, Pushed};

use crate::config;
use crate::fake_hub::FakeHub;
use crate::fake_repo::{FakeRepos, READ, Trouble, WRITE};

const REPO: &str = "ada/digits";
const COMMIT: &str = "/commit/";

struct Case {
    server: FakeHub,
    repos: FakeRepos,
    hub: Hub,
}

impl Case {
    fn new() -> Self {
        Self::with_token(Some(WRITE))
    }

    fn with_token(token: Option<&str>) -> Self {
        let server = FakeHub::start();
        let repos = FakeRepos::on(&server);
        let mut config = config(server.url(), "no/cache".as_ref());
        config.token = token.map(str::to_owned);
        config.upload_timeout = Duration::from_secs(1);
        Self { server, repos, hub: Hub::new(config) }
    }

    fn push(&self, files: &[PushFile], options: &PushOptions) -> Result<Pushed, Error> {
        let result = self.hub.push(REPO, files, options);
        if let Err(error) = &result {
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains(WRITE) && !shown.contains(READ), "{shown}");
        }
        result
    }

    fn titles(&self) -> Vec<String> {
        self.repos.titles(REPO, "main").unwrap_or_default()
    }
}

fn files(card: &str) -> [PushFile; 3] {
    let weights = vec![7; 5000];
    [
        PushFile::bytes("README.md", card),
        PushFile::bytes("unet/config.json", "{}\n"),
        PushFile::bytes("unet/diffusion_pytorch_model.safetensors", weights),
    ]
}

fn options() -> PushOptions {
    PushOptions::new("My digits")
}

#[test]
fn a_push_is_one_commit_and_the_same_files_are_none() {
    let case = Case::new();
    let pushed = case.push(&files("# 1"), &options()).unwrap();
    assert_eq!(pushed.sent, ["README.md", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"]);
    assert_eq!(pushed.url, format!("{}/{REPO}", case.server.url()));
    assert_eq!(case.titles(), ["initial commit", "My digits"]);
    assert_eq!(case.repos.is_private(REPO), Some(false));
    let stored = case.repos.files(REPO, "main");
    assert_eq!(
        (stored["README.md"].as_slice(), stored["unet/diffusion_pytorch_model.safetensors"].len()),
        (&b"# 1"[..], 5000)
    );
    assert!(stored.contains_key(".gitattributes"), "files of others stay");

    let again = case.push(&files("# 1"), &options()).unwrap();
    assert_eq!((again.sent.len(), &again.commit), (0, &pushed.commit));
    assert_eq!(case.titles().len(), 2);
    // a changed file is sent alone, also one of the same size
    let changed = case.push(&files("# 2"), &options()).unwrap();
    assert_eq!(changed.sent, ["README.md"]);
    assert_eq!(case.titles().len(), 3);

    // files of the disk, too
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    fs::write(&path, "{}\n").unwrap();
    assert!(case.push(&[PushFile::file("unet/config.json", &path)], &options()).unwrap().sent.is_empty());
    fs::write(&path, "[]\n").unwrap();
    assert_eq!(case.push(&[PushFile::file("unet/config.json", &path)], &options()).unwrap().sent.len(), 1);
    assert!(!std::path::Path::new("no/cache").exists(), "a push needs no cache");
}

#[test]
fn branches_and_pull_requests_leave_main_alone() {
    let case = Case::new();
    case.repos.create(REPO, false);
    let mut branch = options();
    branch.branch = Some("next".to_owned());
    assert_eq!(case.push(&files("# 1"), &branch).unwrap().sent.len(), 3);
    assert!(case.push(&files("# 1"), &branch).unwrap().sent.is_empty());
    assert_eq!(case.repos.titles(REPO, "next").unwrap(), ["initial commit", "My digits"]);
    let mut request = options();
    request.pull_request = true;
    let pushed = case.push(&files("# 1"), &request).unwrap();
    assert_eq!(pushed.pull_request, Some(format!("{}/{REPO}/discussions/1", case.server.url())));
    assert_eq!(case.repos.files(REPO, "refs/pr/1").len(), 4);
    // more for the same pull request
    branch.branch = Some("refs/pr/1".to_owned());
    assert_eq!(case.push(&files("# 2"), &branch).unwrap().sent, ["README.md"]);
    branch.branch = Some("refs/pr/7".to_owned());
    assert!(matches!(case.push(&files("# 2"), &branch), Err(Error::NotFound { missing: "revision", .. })));
    assert_eq!(case.titles(), ["initial commit"]);

    // a new repository gets the branch, too
    let case = Case::new();
    branch.branch = Some("next".to_owned());
    case.push(&files("# 1"), &branch).unwrap();
    assert_eq!((case.titles().len(), case.repos.titles(REPO, "next").unwrap().len()), (1, 2));
}

#[test]
fn stale_files_are_deleted_in_the_same_commit() {
    let case = Case::new();
    let old = ["unet/old.safetensors", "images/mine.png"].map(|path| PushFile::bytes(path, "x"));
    case.push(&old, &options()).unwrap();
    let mut options = options();
    options.stale = Some(Box::new(|path| path.starts_with("unet/")));
    let pushed = case.push(&files("# 1"), &options).unwrap();
    assert_eq!(pushed.deleted, ["unet/old.safetensors"]);
    assert_eq!(case.titles().len(), 3);
    let left: Vec<String> = case.repos.files(REPO, "main").into_keys().collect();
    assert_eq!(left[1..3], ["README.md", "images/mine.png"]);
    assert!(case.push(&files("# 1"), &options).unwrap().deleted.is_empty());
}

#[test]
fn an_existing_repository_may_be_excluded() {
    let case = Case::new();
    let mut private = options();
    private.private = true;
    private.create_only = true;
    case.push(&files("# 1"), &private).unwrap();
    assert_eq!(case.repos.is_private(REPO), Some(true));
    let error = case.push(&files("# 1"), &private).unwrap_err();
    assert!(matches!(error, Error::Exists { public: false, .. }), "{error}");
    private.create_only = false;
    assert!(case.push(&files("# 1"), &private).is_ok(), "it is private already");

    let case = Case::new();
    case.repos.create(REPO, false);
    let error = case.push(&files("# 1"), &private).unwrap_err();
    assert!(matches!(error, Error::Exists { public: true, .. }) && error.to_string().contains("/settings"), "{error}");
    assert_eq!((case.repos.is_private(REPO), case.titles().len()), (Some(false), 1));

    let case = Case::new();
    case.repos.take(REPO);
    let error = case.push(&files("# 1"), &options()).unwrap_err();
    assert!(matches!(error, Error::Taken { .. }) && error.to_string().contains("choose another name"), "{error}");
}

#[test]
fn what_can_be_known_before_is_said_before_any_connection() {
    let case = Case::new();
    let refused = |hub: &Hub, repo: &str, files: &[PushFile], options: &PushOptions| {
        let error = hub.push(repo, files, options).unwrap_err();
        assert!(case.server.requests().is_empty(), "{error}");
        format!("{error:?} {error}")
    };
    let (hub, good) = (&case.hub, files("# 1"));
    assert!(refused(hub, "digits", &good, &options()).contains("owner/name"));
    assert!(refused(hub, "../x/y", &good, &options()).starts_with("Name"));
    assert!(refused(hub, REPO, &[PushFile::bytes("../x", "")], &options()).starts_with("Name"));
    let twice = [PushFile::bytes("x", "1"), PushFile::bytes("x", "2")];
    assert!(refused(hub, REPO, &twice, &options()).contains("another file of the push"));
    let gone = refused(hub, REPO, &[PushFile::file("x", "no/such/file")], &options());
    assert!(gone.starts_with("Unreadable") && gone.contains("no/such/file"), "{gone}");
    assert!(refused(hub, REPO, &[PushFile::file("x", ".")], &options()).contains("not a file"));
    let mut both = options();
    (both.branch, both.pull_request) = (Some("next".into()), true);
    assert!(refused(hub, REPO, &good, &both).contains("refs/pr/N"));

    let without = Hub::new(config(case.server.url(), "no/cache".as_ref()));
    let said = refused(&without, REPO, &good, &options());
    assert!(said.contains("HF_TOKEN") && said.contains("/settings/tokens"), "{said}");
    let mut offline = config(case.server.url(), "no/cache".as_ref());
    (offline.offline, offline.token) = (true, Some(WRITE.to_owned()));
    assert!(refused(&Hub::new(offline), REPO, &good, &options()).contains("HF_HUB_OFFLINE"));
}

#[test]
fn a_refused_push_is_named_with_a_remedy_and_changes_nothing() {
    const ECHO: &str = concat!("license \"x\" is not known, says hf_may_write_0123456789 ", "to you");
    let refuse = |status, code, reason| Trouble::Refuse(status, code, "", reason);
    let cases = [
        (
            "/preupload/",
            refuse(403, "", "You do not have the rights"),
            "Denied",
            vec!["may only read", "settings/tokens"],
        ),
        (COMMIT, refuse(401, "", "Invalid credentials"), "Denied", vec!["wrong or has expired", "settings/tokens"]),
        (COMMIT, refuse(403, "", "Private repository storage limit reached"), "Full", vec!["no room", "billing"]),
        (COMMIT, refuse(413, "", ""), "Full", vec!["no room"]),
        (COMMIT, refuse(507, "", ""), "Full", vec!["no room", "HTTP 507"]),
        ("/preupload/", refuse(402, "", ""), "Full", vec!["no room"]),
        (COMMIT, refuse(400, "", ECHO), "Invalid", vec!["license \"x\" is not known, says … to you"]),
        (COMMIT, refuse(422, "", ""), "Invalid", vec!["no reason"]),
        (COMMIT, refuse(409, "", "in progress"), "Moved", vec!["push again"]),
        (COMMIT, refuse(418, "", ""), "Status", vec!["HTTP 418"]),
        (COMMIT, refuse(503, "", ""), "Status", vec!["HTTP 503", "try again"]),
        (COMMIT, Trouble::Refuse(429, "", "Retry-After: 50\r\n", ""), "RateLimited", vec!["try again in 50 s"]),
        (COMMIT, Trouble::Close, "Interrupted", vec!["try again"]),
        (COMMIT, Trouble::Silent, "Timeout", vec!["HF_HUB_DOWNLOAD_TIMEOUT"]),
        (COMMIT, Trouble::Overtaken, "Moved", vec!["changed meanwhile"]),
    ];
    let check = |(part, trouble, named, words): (_, Trouble, &str, Vec<&str>)| {
        let case = Case::new();
        case.repos.create(REPO, false);
        case.repos.trouble(part, trouble.clone());
        let error = case.push(&files("# 1"), &options()).unwrap_err();
        assert!(format!("{error:?}").starts_with(named), "{trouble:?}: {error:?}");
        let said = error.to_string();
        assert!(words.iter().all(|word| said.contains(word)), "{trouble:?}: {said}");
        assert!(said.contains("ada/digits") || named == "RateLimited", "{said}");
        assert_eq!(case.repos.files(REPO, "main").len(), 1, "{trouble:?}");
        assert!(!case.titles().contains(&"My digits".to_owned()));
        case.repos.trouble(part, None);
        assert_eq!(case.push(&files("# 1"), &options()).unwrap().sent.len(), 3, "{trouble:?}");
    };
    // some wait for the next attempt, or for the time limit
    std::thread::scope(|scope| cases.into_iter().for_each(|case| drop(scope.spawn(move || check(case)))));
    // a token that may only read, and a repository of another account
    let case = Case::with_token(Some(READ));
    let error = case.push(&files("# 1"), &options()).unwrap_err();
    assert!(matches!(error, Error::Denied { status: 403, .. }), "{error}");
    assert!(case.repos.titles(REPO, "main").is_none());
    let case = Case::new();
    case.repos.create("bob/digits", false);
    let error = case.hub.push("bob/digits", &files("# 1"), &options()).unwrap_err();
    assert!(error.to_string().contains("repositories of bob"), "{error}");
}

#[test]
fn a_connection_that_breaks_in_the_middle_changes_nothing() {
    let case = Case::new();
    case.repos.create(REPO, false);
    case.server.cut(Some(COMMIT));
    let error = case.push(&files("# 1"), &options()).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
    assert_eq!(case.titles(), ["initial commit"]);
    case.server.cut(None);
    assert_eq!(case.push(&files("# 1"), &options()).unwrap().sent.len(), 3);
}

#[test]
fn a_temporary_failure_is_retried_and_makes_no_second_commit() {
    let once = |trouble| Trouble::Times(1, Box::new(trouble));
    for (part, trouble) in [
        (COMMIT, once(Trouble::NoAnswer)), // it was made, but the answer is lost
        (COMMIT, once(Trouble::Close)),
        (COMMIT, once(Trouble::Refuse(500, "", "", ""))),
        ("/repos/create", once(Trouble::NoAnswer)),
        ("/revision/", once(Trouble::Refuse(502, "", "", ""))),
    ] {
        let case = Case::new();
        let mut options = options();
        options.create_only = true; // also if the answer to the creation is lost
        case.repos.trouble(part, trouble.clone());
        let pushed = case.push(&files("# 1"), &options).unwrap_or_else(|error| panic!("{trouble:?}: {error}"));
        assert_eq!(pushed.sent.len(), 3, "{trouble:?}");
        assert_eq!(case.titles(), ["initial commit", "My digits"], "{trouble:?}");
    }
    // a commit of others that came first is kept
    let case = Case::new();
    case.repos.create(REPO, false);
    case.repos.trouble(COMMIT, once(Trouble::Overtaken));
    case.push(&files("# 1"), &options()).unwrap();
    assert_eq!(case.titles(), ["initial commit", "overtaken", "My digits"]);
    // whether a pull request was opened cannot be seen: no second one
    let case = Case::new();
    case.repos.create(REPO, false);
    case.repos.trouble(COMMIT, once(Trouble::NoAnswer));
    let mut request = options();
    request.pull_request = true;
    assert!(matches!(case.push(&files("# 1"), &request), Err(Error::Interrupted { .. })));
    assert!(case.repos.titles(REPO, "refs/pr/1").is_some() && case.repos.titles(REPO, "refs/pr/2").is_none());
}

#[test]
fn waits_and_steps_are_reported() {
    let case = Case::new();
    case.repos.trouble(COMMIT, Trouble::Times(1, Box::new(Trouble::Refuse(429, "", "Retry-After: 1\r\n", ""))));
    let told = Arc::new(Mutex::new(vec![]));
    let (waits, steps) = (told.clone(), told.clone());
    let hub = case.hub.clone().on_wait(move |wait| {
        waits.lock().unwrap().push(format!("{} {} {:?}", wait.status, wait.file, wait.time));
    });
    let hub = hub.on_push(move |step| {
        steps.lock().unwrap().push(match step {
            PushStep::Created { name, .. } => format!("created {name}"),
            PushStep::Committing => "committing".to_owned(),
            other => format!("{other:?}"),
        });
    });
    hub.push(REPO, &files("# 1"), &options()).unwrap();
    let told = told.lock().unwrap();
    assert_eq!(*told, ["created ada/digits", "committing", "429 ada/digits 1s", "committing"]);
}
