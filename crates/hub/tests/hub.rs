//! The Hub crate against a fake Hub on a loopback port: downloads, the cache's layout, errors, and pushes (`push.rs`).

#[path = "../../../tests/support/fake_hub.rs"]
mod fake_hub;
#[path = "../../../tests/support/fake_repo.rs"]
mod fake_repo;
#[path = "hub/push.rs"]
mod push;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fake_hub::{COMMIT, FakeHub, Fault, sha256};
use kakusan_hub::{Error, Hub, HubConfig};

const REPO: &str = "ylecun/mnist";
const REVISION: &str = "refs/convert/parquet";
const FILE: &str = "mnist/train/0000.parquet";

/// A file that is sent in several reads.
fn bytes() -> Vec<u8> {
    (0..300_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect()
}

fn config(endpoint: &str, cache: &Path) -> HubConfig {
    let mut config = HubConfig::new(endpoint, cache);
    config.etag_timeout = Duration::from_secs(2);
    config.download_timeout = Duration::from_secs(1);
    config.max_wait = Duration::from_secs(4);
    config
}

struct Case {
    server: FakeHub,
    cache: tempfile::TempDir,
    hub: Hub,
}

impl Case {
    fn new() -> Self {
        let (server, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
        server.serve(&format!("datasets/{REPO}"), FILE, bytes());
        let hub = Hub::new(config(server.url(), cache.path()));
        Self { server, cache, hub }
    }

    fn fetch(&self) -> Result<PathBuf, Error> {
        self.hub.dataset_file(REPO, REVISION, FILE)
    }

    fn offline(&self) -> Hub {
        let mut config = config("http://127.0.0.1:1", self.cache.path());
        config.offline = true;
        Hub::new(config)
    }

    fn root(&self) -> PathBuf {
        self.cache.path().join("datasets--ylecun--mnist")
    }

    fn blob(&self) -> PathBuf {
        self.root().join("blobs").join(sha256(&bytes()))
    }

    /// The files and links of the repository's cache, except locks.
    fn kept(&self) -> Vec<PathBuf> {
        let (mut kept, mut open) = (Vec::new(), vec![self.root()]);
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap().is_dir() {
                    true => open.push(entry.path()),
                    false => kept.push(entry.path().strip_prefix(self.root()).unwrap().to_owned()),
                }
            }
        }
        kept.sort();
        kept
    }

    fn methods(&self) -> Vec<String> {
        self.server.requests().into_iter().map(|request| request.method).collect()
    }
}

#[test]
fn a_file_is_fetched_into_pythons_layout() {
    let case = Case::new();
    let path = case.fetch().unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes());
    assert_eq!(path, case.root().join("snapshots").join(COMMIT).join(FILE));
    let etag = sha256(&bytes());
    assert_eq!(
        case.kept(),
        [format!("blobs/{etag}"), format!("refs/{REVISION}"), format!("snapshots/{COMMIT}/{FILE}")].map(PathBuf::from)
    );
    assert_eq!(fs::read_to_string(case.root().join("refs").join(REVISION)).unwrap(), COMMIT);
    #[cfg(unix)]
    assert_eq!(fs::read_link(&path).unwrap(), Path::new("../../../../blobs").join(&etag));
    assert!(case.cache.path().join(".locks/datasets--ylecun--mnist").join(format!("{etag}.lock")).is_file());
    for request in case.server.requests() {
        assert_eq!(request.path, "/datasets/ylecun/mnist/resolve/refs%2Fconvert%2Fparquet/mnist/train/0000.parquet");
    }
}

#[test]
fn the_second_time_only_metadata_is_requested_and_offline_nothing() {
    let case = Case::new();
    let path = case.fetch().unwrap();
    assert!(case.methods().contains(&"GET".to_owned()));
    assert_eq!(case.fetch().unwrap(), path);
    assert_eq!(case.methods(), ["HEAD"]);
    // The endpoint of the offline Hub does not answer: a connection would fail.
    assert_eq!(case.offline().dataset_file(REPO, REVISION, FILE).unwrap(), path);
    assert_eq!(case.offline().dataset_file(REPO, COMMIT, FILE).unwrap(), path);
    assert!(case.methods().is_empty());

    let error = case.offline().dataset_file(REPO, REVISION, "other.parquet").unwrap_err();
    assert!(matches!(error, Error::Offline { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("other.parquet") && text.contains("HF_HUB_OFFLINE"), "{text}");
}

#[test]
fn a_commit_in_the_cache_needs_no_network() {
    let case = Case::new();
    let path = case.fetch().unwrap();
    case.server.requests();
    assert_eq!(case.hub.dataset_file(REPO, COMMIT, FILE).unwrap(), path);
    assert!(case.server.requests().is_empty());
}

#[test]
fn a_changed_file_is_fetched_again_and_a_missing_one_is_not_found() {
    let case = Case::new();
    case.fetch().unwrap();
    case.server.serve(&format!("datasets/{REPO}"), FILE, "version 2");
    assert_eq!(fs::read_to_string(case.fetch().unwrap()).unwrap(), "version 2");

    let error = case.hub.dataset_file(REPO, REVISION, "mnist/none.parquet").unwrap_err();
    assert!(matches!(error, Error::NotFound { missing: "file", .. }), "{error}");
    assert!(error.to_string().contains("mnist/none.parquet of dataset ylecun/mnist"), "{error}");
}

#[test]
fn models_have_their_own_folder_and_small_files_have_gits_hash() {
    let case = Case::new();
    case.server.serve("google/ddpm", "unet/config.json", "hello\n");
    case.server.fault(Fault::Etag("\"ce013625030ba8dba906f756967f9e9ca394464a\""));
    let path = case.hub.model_file("google/ddpm", "main", "unet/config.json").unwrap();
    assert_eq!(path, case.cache.path().join("models--google--ddpm/snapshots").join(COMMIT).join("unet/config.json"));
    case.server.fault(Fault::Etag("W/\"0000000000000000000000000000000000000000\""));
    let error = case.hub.model_file("google/ddpm", "main", "unet/config.json").unwrap_err();
    assert!(matches!(error, Error::Integrity { .. }), "{error}");
    // A mirror's etag may not be a checksum; then only the size is compared.
    case.server.fault(Fault::Etag("\"mirror-7\""));
    assert!(case.hub.model_file("google/ddpm", "v2", "unet/config.json").is_ok());
}

#[test]
fn a_wrong_body_is_refused_and_discarded() {
    for (fault, named) in [
        (Fault::GetStatus(403), "Denied"),
        (Fault::GetStatus(404), "NotFound"),
        (Fault::GetStatus(500), "Status"),
        (Fault::ErrorPage, "Integrity"),
        (Fault::CutShort, "Interrupted"),
        (Fault::Half, "Integrity"),
        (Fault::Altered, "Integrity"),
        (Fault::TooLong, "Protocol"),
        (Fault::WrongEtag, "Integrity"),
        (Fault::StandStill, "Timeout"),
    ] {
        let case = Case::new();
        case.server.fault(fault.clone());
        let error = case.fetch().unwrap_err();
        assert!(format!("{error:?}").starts_with(named), "{fault:?}: {error:?}");
        assert!(error.to_string().contains(FILE), "{error}");
        // A partial download is kept and continued if the etag is a checksum.
        let kept = case.kept();
        match fault {
            Fault::CutShort | Fault::StandStill => {
                assert!(kept.len() == 1 && kept[0].to_str().unwrap().ends_with(".incomplete"))
            }
            _ => assert_eq!(kept, Vec::<PathBuf>::new(), "{fault:?}"),
        }
        // The next download succeeds.
        case.server.fault(None);
        assert_eq!(fs::read(case.fetch().unwrap()).unwrap(), bytes(), "{fault:?}");
    }
}

#[test]
fn refusals_and_invalid_answers_become_errors_with_a_remedy() {
    for (fault, named, remedy) in [
        (Fault::Refuse(401, "RepoNotFound", ""), "Denied", "HF_TOKEN is not set"),
        (Fault::Refuse(403, "GatedRepo", ""), "Denied", "accept its conditions"),
        (Fault::Refuse(404, "RepoNotFound", ""), "NotFound { endpoint", "has no repository"),
        (Fault::Refuse(404, "RevisionNotFound", ""), "NotFound", "has no revision"),
        (Fault::Refuse(429, "", "Retry-After: 17\r\n"), "RateLimited", "try again in 17 s"),
        (Fault::Refuse(500, "", ""), "Status", "HTTP 500"),
        (Fault::Rubbish, "Interrupted", "HF_ENDPOINT"),
        (Fault::Silent, "Timeout", "HF_HUB_ETAG_TIMEOUT"),
        (Fault::Loop, "Protocol", "redirects"),
        (Fault::MovedTo("https://login.invalid/?next=secret"), "Protocol", "sends us to https://login.invalid)"),
        (Fault::Without("etag"), "Protocol", "ETag"),
        (Fault::Without("x-repo-commit"), "Protocol", "X-Repo-Commit"),
        // Names that lead out of the cache.
        (Fault::Etag("\"../../../evil\""), "Protocol", "ETag"),
        (Fault::Etag("/evil"), "Protocol", "ETag"),
        (Fault::Etag(".."), "Protocol", "ETag"),
    ] {
        let case = Case::new();
        case.server.fault(fault.clone());
        let error = case.fetch().unwrap_err();
        assert!(format!("{error:?}").starts_with(named), "{fault:?}: {error:?}");
        assert!(error.to_string().contains(remedy), "{fault:?}: {error}");
        assert!(error.to_string().contains(case.server.url()), "{error}");
        assert_eq!(fs::read_dir(case.cache.path()).unwrap().count(), 0, "{fault:?} left something");
    }
}

fn times(times: usize, fault: Fault) -> Fault {
    Fault::Times(times, Box::new(fault))
}

#[test]
fn a_temporary_failure_is_retried() {
    for fault in [
        times(2, Fault::Refuse(408, "", "")),
        times(2, Fault::Refuse(429, "", "")),
        times(2, Fault::Refuse(500, "", "")),
        times(2, Fault::Refuse(502, "", "")),
        times(2, Fault::Refuse(503, "", "")),
        times(2, Fault::Refuse(504, "", "")),
        times(2, Fault::Drop(FILE)),
        times(2, Fault::Rubbish),
        // HEAD succeeds, GET fails
        times(2, Fault::GetStatus(503)),
        times(3, Fault::GetStatus(504)),
        times(2, Fault::CutShort),
        times(2, Fault::StandStill),
    ] {
        let case = Case::new();
        case.server.fault(fault.clone());
        assert_eq!(fs::read(case.fetch().unwrap_or_else(|error| panic!("{fault:?}: {error}"))).unwrap(), bytes());
    }
}

/// Waits that the Hub asks for, in seconds or as a date, are reported and kept: for HEAD, for listings and for
/// downloads.
#[test]
fn retry_after_is_obeyed() {
    // relative to the Hub's clock
    let until = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:49:38 GMT\r\n";
    for (fault, status) in [
        (times(1, Fault::Refuse(429, "", "Retry-After: 1\r\n")), 429),
        (times(3, Fault::Refuse(429, "", "Retry-After: 1\r\n")), 429),
        (times(1, Fault::Refuse(503, "", "Retry-After: 1\r\n")), 503),
        (times(1, Fault::Refuse(429, "", until)), 429),
        (times(1, Fault::Refuse(503, "", until)), 503),
    ] {
        let case = Case::new();
        let waits = std::sync::Arc::new(std::sync::Mutex::new(vec![]));
        let told = waits.clone();
        let hub = case.hub.clone().on_wait(move |wait| {
            assert_eq!(wait.file, FILE);
            told.lock().unwrap().push((wait.status, wait.time));
        });
        case.server.fault(fault.clone());
        let begin = std::time::Instant::now();
        assert_eq!(fs::read(hub.dataset_file(REPO, REVISION, FILE).unwrap()).unwrap(), bytes());
        let waits = waits.lock().unwrap();
        let Fault::Times(count, _) = fault else { unreachable!() };
        assert_eq!(*waits, vec![(status, Duration::from_secs(1)); count]);
        assert!(begin.elapsed() >= Duration::from_secs(count as u64));
    }
    // hf-hub reports neither dates nor 503's Retry-After: HEAD asks for them.
    let later = |count, refusal| Fault::Later(1, Box::new(times(count, refusal)));
    for fault in [
        later(1, Fault::Refuse(429, "", "Retry-After: 1\r\n")),
        later(2, Fault::Refuse(429, "", until)),
        later(2, Fault::Refuse(503, "", "Retry-After: 1\r\n")),
    ] {
        let case = Case::new();
        let told = std::sync::Arc::new(std::sync::Mutex::new(0));
        let hub = case.hub.clone();
        let hub = hub.on_wait({
            let told = told.clone();
            move |_| *told.lock().unwrap() += 1
        });
        case.server.fault(fault);
        assert_eq!(fs::read(hub.dataset_file(REPO, REVISION, FILE).unwrap()).unwrap(), bytes());
        assert_eq!(*told.lock().unwrap(), 1);
    }
    // Neither one wait nor their sum exceeds the bound.
    for (fault, seconds) in [("Retry-After: 5\r\n", "5"), ("Retry-After: 3\r\n", "3")] {
        let case = Case::new();
        case.server.fault(Fault::Refuse(429, "", fault));
        let error = case.fetch().unwrap_err();
        assert!(matches!(error, Error::RateLimited { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("try again in {seconds} s")), "{error}");
    }
    // An invalid time is ignored.
    let case = Case::new();
    case.server.fault(times(1, Fault::Refuse(503, "", "Retry-After: soon\r\n")));
    assert!(case.fetch().is_ok());
}

#[test]
fn an_unreachable_hub_does_not_matter_if_the_file_is_cached() {
    let case = Case::new();
    let path = case.fetch().unwrap();
    for fault in [Fault::Refuse(500, "", ""), Fault::Refuse(401, "RepoNotFound", ""), Fault::Silent, Fault::Rubbish] {
        case.server.fault(fault);
        assert_eq!(case.fetch().unwrap(), path);
    }
    // A reachable Hub that reports the file as missing is believed.
    case.server.fault(Fault::Refuse(404, "EntryNotFound", ""));
    assert!(matches!(case.fetch(), Err(Error::NotFound { .. })));

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for endpoint in [format!("http://{closed}"), "http://no-such-host.invalid".to_owned()] {
        assert_eq!(Hub::new(config(&endpoint, case.cache.path())).dataset_file(REPO, REVISION, FILE).unwrap(), path);
        let error = Hub::new(config(&endpoint, Path::new("no-cache"))).dataset_file(REPO, REVISION, FILE).unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert!(!Path::new("no-cache").exists());
    }
}

#[test]
fn a_cached_file_that_was_changed_is_refused_offline_and_replaced_online() {
    for damage in [&b"cut short"[..], &[0; 300_000]] {
        let case = Case::new();
        case.fetch().unwrap();
        fs::write(case.blob(), damage).unwrap();
        let error = case.offline().dataset_file(REPO, REVISION, FILE).unwrap_err();
        assert!(matches!(error, Error::Integrity { .. }), "{error:?}");
        assert!(error.to_string().contains(case.blob().to_str().unwrap()), "{error}");
        case.server.fault(Fault::Refuse(500, "", ""));
        assert!(matches!(case.fetch(), Err(Error::Integrity { .. })));
        case.server.fault(None);
        // Also by its commit, for which an undamaged cache needs no network.
        assert_eq!(fs::read(case.hub.dataset_file(REPO, COMMIT, FILE).unwrap()).unwrap(), bytes());
    }
}

#[test]
fn leftovers_of_a_killed_process_are_overwritten() {
    let case = Case::new();
    let incomplete = PathBuf::from(format!("{}.incomplete", case.blob().display()));
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    fs::write(&incomplete, vec![1; 400_000]).unwrap();
    assert_eq!(fs::read(case.fetch().unwrap()).unwrap(), bytes());
    assert!(!incomplete.exists());
}

#[test]
fn an_interrupted_download_is_continued() {
    let case = Case::new();
    case.server.fault(Fault::StandStill);
    assert!(matches!(case.fetch(), Err(Error::Timeout { .. })));
    case.server.fault(None);
    case.server.requests();
    assert_eq!(fs::read(case.fetch().unwrap()).unwrap(), bytes());
    let ranges: Vec<_> = case.server.requests().into_iter().filter_map(|request| request.range).collect();
    assert_eq!(ranges, [(262_500, 299_999)]); // three attempts, each of which got half of the rest
    assert!(case.kept().iter().all(|path| path.extension().is_none_or(|extension| extension != "incomplete")));

    // A partial download of another file, a Hub that ignores ranges, a partial download of full length.
    for (left, fault) in [
        (vec![7; 1000], None),
        (bytes()[..1000].to_vec(), Some(Fault::NoRanges)),
        (vec![7; 1000], Some(Fault::NoRanges)),
        (vec![7; 300_000], None),
    ] {
        let case = Case::new();
        let incomplete = PathBuf::from(format!("{}.incomplete", case.blob().display()));
        fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
        fs::write(&incomplete, left).unwrap();
        case.server.fault(fault.clone());
        assert_eq!(fs::read(case.fetch().unwrap()).unwrap(), bytes(), "{fault:?}");
        assert!(!incomplete.exists());
    }
}

#[test]
fn a_models_files_are_listed_fetched_at_one_commit_and_found_offline() {
    let case = Case::new();
    for (name, content) in [("model_index.json", "{}"), ("unet/config.json", "[1]"), ("README.md", "# x")] {
        case.server.serve("google/ddpm", name, content);
    }
    let snapshot = case.hub.model_snapshot("google/ddpm", "main").unwrap();
    assert_eq!(snapshot.files(), ["README.md", "model_index.json", "unet/config.json"]);
    assert_eq!(snapshot.commit(), COMMIT);
    assert_eq!(fs::read_to_string(snapshot.fetch("unet/config.json").unwrap()).unwrap(), "[1]");
    assert_eq!(snapshot.fetch("unet/config.json").unwrap(), snapshot.folder().join("unet/config.json"));
    assert!(matches!(snapshot.fetch("../x"), Err(Error::Name { .. })));
    assert!(matches!(snapshot.fetch("none.json"), Err(Error::NotFound { .. })));

    // Only a complete version is found offline.
    assert!(matches!(case.offline().model_snapshot("google/ddpm", "main"), Err(Error::Offline { .. })));
    snapshot.keep().unwrap();
    let offline = case.offline();
    let cached = offline.model_snapshot("google/ddpm", "main").unwrap();
    assert_eq!(cached.files(), ["unet/config.json"]);
    assert_eq!(fs::read_to_string(cached.fetch("unet/config.json").unwrap()).unwrap(), "[1]");
    assert!(matches!(cached.fetch("README.md"), Err(Error::Offline { .. })));
    case.server.fault(Fault::Refuse(500, "", ""));
    assert_eq!(case.hub.model_snapshot("google/ddpm", "main").unwrap().files(), ["unet/config.json"]);
    assert!(matches!(case.hub.model_snapshot("google/other", "main"), Err(Error::Status { .. })));
    case.server.fault(None);
    assert!(matches!(case.hub.model_snapshot("google/other", "main"), Err(Error::NotFound { .. })));
    assert!(matches!(case.hub.model_snapshot("a/b/c", "main"), Err(Error::Name { .. })));
    for fault in [Fault::ErrorPage, Fault::Rubbish, Fault::Silent] {
        let case = Case::new();
        case.server.serve("google/ddpm", "model_index.json", "{}");
        case.server.fault(fault);
        assert!(case.hub.model_snapshot("google/ddpm", "main").is_err());
    }
}

#[test]
fn the_token_goes_only_to_the_endpoint_and_into_no_message() {
    let (storage, mut case) = (FakeHub::start(), Case::new());
    storage.serve(&format!("datasets/{REPO}"), FILE, bytes());
    let mut config = config(case.server.url(), case.cache.path());
    config.token = Some("hf_secret".to_owned());
    case.hub = Hub::new(config);
    case.server.fault(Fault::RedirectTo(storage.url().to_owned()));
    assert_eq!(fs::read(case.fetch().unwrap()).unwrap(), bytes());
    let asked = case.server.requests();
    assert!(
        asked.len() >= 2 && asked.iter().all(|request| request.authorization.as_deref() == Some("Bearer hf_secret"))
    );
    let stored = storage.requests();
    assert!(stored.iter().any(|request| request.method == "GET"));
    assert!(stored.iter().all(|request| request.authorization.is_none()), "{stored:?}");

    case.server.fault(Fault::Refuse(403, "", ""));
    let error = case.hub.dataset_file(REPO, "main", FILE).unwrap_err();
    assert!(error.to_string().contains("HF_TOKEN may not read it"), "{error}");
    assert!(!format!("{error} {error:?} {:?}", case.hub).contains("secret"));
}

/// hf-hub would search the environment for a token, so this test runs itself again with one in the environment.
#[test]
fn without_a_token_none_is_sent() {
    if std::env::var_os("HF_TOKEN").is_none() {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let again =
            again.args(["--exact", "without_a_token_none_is_sent"]).env("HF_TOKEN", "hf_unasked").output().unwrap();
        assert!(String::from_utf8_lossy(&again.stdout).contains("1 passed"), "{again:?}");
    }
    let case = Case::new();
    case.fetch().unwrap();
    let requests = case.server.requests();
    assert!(requests.len() >= 2 && requests.iter().all(|request| request.authorization.is_none()), "{requests:?}");
}

#[test]
fn concurrent_requests_download_once() {
    let case = Case::new();
    let paths = std::thread::scope(|scope| {
        let fetches: Vec<_> = (0..4).map(|_| scope.spawn(|| case.fetch().unwrap())).collect();
        fetches.into_iter().map(|fetch| fetch.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(paths.iter().all(|path| fs::read(path).unwrap() == bytes()));
    assert_eq!(case.methods().iter().filter(|method| *method == "GET").count(), 1);
}

/// Several processes (this test, run again) fetch files of one commit; each records the commit of the branch.
#[test]
fn processes_that_fetch_files_of_one_commit_do_not_interfere() {
    const NAME: &str = "processes_that_fetch_files_of_one_commit_do_not_interfere";
    let files: Vec<String> = (0..8).map(|i| format!("{i}.bin")).collect();
    if let (Ok(url), Ok(cache)) = (std::env::var("KAKUSAN_TEST_HUB"), std::env::var("KAKUSAN_TEST_CACHE")) {
        let hub = Hub::new(config(&url, Path::new(&cache)));
        std::thread::scope(|scope| {
            let fetch = |file: String| drop(hub.dataset_file(REPO, REVISION, &file).unwrap());
            files.into_iter().for_each(|file| drop(scope.spawn(move || fetch(file))));
        });
        return;
    }
    let case = Case::new();
    for file in &files {
        case.server.serve(&format!("datasets/{REPO}"), file, file.as_bytes());
    }
    for _ in 0..3 {
        let children = [0; 3].map(|_| {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", NAME]).env("KAKUSAN_TEST_HUB", case.server.url());
            command.env("KAKUSAN_TEST_CACHE", case.cache.path()).stdout(std::process::Stdio::piped());
            command.spawn().unwrap()
        });
        for child in children {
            let done = child.wait_with_output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
        }
        assert_eq!(fs::read_to_string(case.root().join("refs").join(REVISION)).unwrap(), COMMIT);
        assert!(case.kept().iter().all(|path| path.extension().is_none_or(|end| end != "tmp")), "{:?}", case.kept());
        fs::remove_dir_all(case.root()).unwrap();
    }
}

#[test]
fn it_works_inside_an_async_runtime() {
    let case = Case::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(runtime.block_on(async { case.fetch() }).is_ok());
}

#[test]
fn names_and_endpoints_are_validated_before_any_request() {
    let case = Case::new();
    assert!(matches!(case.hub.dataset_file("../mnist", REVISION, FILE), Err(Error::Name { .. })));
    assert!(matches!(case.hub.dataset_file(REPO, REVISION, "/etc/passwd"), Err(Error::Name { .. })));
    assert!(matches!(case.hub.dataset_file(REPO, "../../x", FILE), Err(Error::Name { .. })));
    assert!(case.server.requests().is_empty());
    let hub = Hub::new(config("huggingface.co", case.cache.path()));
    assert!(matches!(hub.dataset_file(REPO, REVISION, FILE), Err(Error::Config { .. })));
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let case = Case::new();
    let file = case.cache.path().join("a-file");
    fs::write(&file, "").unwrap();
    let error = Hub::new(config(case.server.url(), &file)).dataset_file(REPO, REVISION, FILE).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("a-file"), "{error}");
}

#[test]
fn a_download_can_be_watched() {
    let case = Case::new();
    let seen = std::sync::Arc::new(std::sync::Mutex::new(vec![]));
    let watched = {
        let seen = seen.clone();
        case.hub.clone().on_download(move |download| {
            assert_eq!(download.file, FILE);
            seen.lock().unwrap().push((download.received, download.size));
        })
    };
    watched.dataset_file(REPO, REVISION, FILE).unwrap();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    let size = bytes().len() as u64;
    assert!(seen.iter().all(|(_, of)| *of == size) && seen.is_sorted() && seen.last().unwrap().0 == size, "{seen:?}");
    watched.dataset_file(REPO, REVISION, FILE).unwrap(); // from the cache: no download
}
