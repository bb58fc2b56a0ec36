//! `kakusan push`: a run goes to the fake Hub, and `sample` draws the same images from there.

use std::path::{Path, PathBuf};
use std::process::Command;
#[cfg(unix)]
use std::process::Stdio;
use std::sync::OnceLock;
#[cfg(unix)]
use std::time::{Duration, Instant};

use crate::command::{Done, Workplace};
use crate::fake_hub::FakeHub;
use crate::fake_repo::{FakeRepos, READ, Trouble, WRITE};
#[cfg(unix)]
use crate::interrupt;

const REPO: &str = "ada/digits";
const RUN: &str = r#"
data = { name = "mnist", classes = [1, 8], sources = ["drawn"], drawn_per_class = 8 }
model = { _class_name = "UNet2DModel", sample_size = 28, in_channels = 1, out_channels = 1, layers_per_block = 1, norm_num_groups = 4, block_out_channels = [8, 16], down_block_types = ["DownBlock2D", "DownBlock2D"], up_block_types = ["UpBlock2D", "UpBlock2D"] }
scheduler = { _class_name = "DDPMScheduler" }
train = { epochs = 1, batch_size = 8, max_steps = 1 }
sample = { steps = 2, batch_size = 2, trajectory_steps = 2 }
"#;

/// A finished run, trained once for all tests.
fn run() -> PathBuf {
    static PLACE: OnceLock<Workplace> = OnceLock::new();
    let place = PLACE.get_or_init(|| {
        let place = Workplace::new();
        std::fs::write(place.path("run.toml"), RUN).unwrap();
        place.run(&["train", "--config", "run.toml", "--out", "digits"]).expect(0);
        place
    });
    place.path("digits")
}

struct Case {
    place: Workplace,
    hub: FakeHub,
    repos: FakeRepos,
}

impl Case {
    fn new() -> Self {
        let (place, hub) = (Workplace::new(), FakeHub::start());
        let repos = FakeRepos::on(&hub);
        Self { place, hub, repos }
    }

    /// A command that reaches the fake Hub with this token.
    fn command(&self, token: &str, args: &[&str]) -> Command {
        let mut command = self.place.kakusan(args);
        command.env("HF_ENDPOINT", self.hub.url()).env("HF_HUB_OFFLINE", "0").env("HF_TOKEN", token);
        // the fake storage does not decompress, and a test does not wait
        command.env("HF_XET_XORB_COMPRESSION_POLICY", "none").env("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "0");
        command
    }

    fn push(&self, dir: &Path, more: &[&str]) -> Done {
        self.push_with(WRITE, dir, more)
    }

    fn push_with(&self, token: &str, dir: &Path, more: &[&str]) -> Done {
        let args: Vec<&str> = ["push", dir.to_str().unwrap(), REPO].into_iter().chain(more.iter().copied()).collect();
        let done = Done(self.command(token, &args).output().unwrap());
        assert!(!done.stdout().contains(WRITE) && !done.stderr().contains(WRITE), "{}{}", done.stdout(), done.stderr());
        done
    }

    fn paths(&self) -> Vec<String> {
        self.repos.files(REPO, "main").into_keys().collect()
    }

    fn card(&self) -> String {
        String::from_utf8(self.repos.files(REPO, "main").remove("README.md").unwrap()).unwrap()
    }
}

/// All files below a folder.
fn all_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(all_files(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files
}

#[test]
fn what_was_pushed_draws_the_same_images() {
    let (case, run) = (Case::new(), run());
    case.repos.large(".safetensors"); // as the Hub does
    let said = case.push(&run, &["--license", "mit"]).expect(0).stdout();
    assert!(said.contains("Created ada/digits.") && said.contains("Pushed 8 files to "), "{said}");
    assert!(said.contains("kakusan sample --model ada/digits"), "{said}");
    let expected = [
        ".gitattributes",
        "README.md",
        "images/loss.png",
        "images/samples.png",
        "images/trajectory.png",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ];
    assert_eq!(case.paths(), expected);
    let weights = "unet/diffusion_pytorch_model.safetensors";
    assert_eq!(case.repos.files(REPO, "main")[weights], std::fs::read(run.join(weights)).unwrap());
    let card = case.card();
    for part in ["library_name: diffusers\n", "license: mit\n", "from_pretrained(\"ada/digits\")", "## The training"] {
        assert!(card.contains(part), "{card}");
    }
    assert!(!card.contains(run.to_str().unwrap()) && !card.contains("--model ."), "{card}");
    assert_eq!(case.repos.titles(REPO, "main").unwrap(), ["initial commit", "Upload DDPMPipeline by Kakusan"]);

    let said = case.push(&run, &["--license", "mit"]).expect(0).stdout();
    assert!(said.contains("has these files already: nothing was sent."), "{said}");
    assert_eq!(case.repos.titles(REPO, "main").unwrap().len(), 2);

    let draw = |model: &str, file: &str| {
        let args = ["sample", "--model", model, "--steps", "2", "--batch", "2", "--save-tensor", file];
        Done(case.command(WRITE, &args).output().unwrap()).expect(0);
        std::fs::read(case.place.path(file)).unwrap()
    };
    assert_eq!(draw(REPO, "theirs.safetensors"), draw(run.to_str().unwrap(), "ours.safetensors"));
    // neither a cache nor a log has the token
    let files = [all_files(&case.place.path("")), all_files(&run)].concat();
    assert!(files.len() > 10);
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(WRITE.len()).any(|window| window == WRITE.as_bytes()), "{}", file.display());
    }
}

#[test]
fn a_dry_run_lists_the_files_and_opens_no_connection() {
    let (case, run) = (Case::new(), run());
    let said = case.push(&run, &["--dry-run"]).expect(0).stdout();
    for part in
        ["To ada/digits", "unet/diffusion_pytorch_model.safetensors", "README.md", "in 8 files; nothing was sent"]
    {
        assert!(said.contains(part), "{said}");
    }
    for part in ["checkpoint", "metrics", "config.toml", "data.json", "report.html", "corrupted.png"] {
        assert!(!said.contains(part), "{said}");
    }
    assert!(case.hub.requests().is_empty());
    let said = case.push(&run, &["--dry-run", "--report"]).expect(0).stdout();
    assert!(said.contains("report.html") && said.contains("corrupted.png") && said.contains("in 12 files"), "{said}");

    // a report that names a folder of this machine
    let copy = case.place.path("copy");
    for file in all_files(&run) {
        let to = copy.join(file.strip_prefix(&run).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(&file, to).unwrap();
    }
    std::fs::write(copy.join("report.html"), format!("<p>{}</p>", copy.canonicalize().unwrap().display())).unwrap();
    let said = case.push(&copy, &["--dry-run", "--report"]).expect(2).stderr();
    assert!(said.contains("a place on this machine") && said.contains("without --report"), "{said}");
}

#[test]
fn other_folders_are_pushed_or_refused() {
    let case = Case::new();
    let folder = case.place.path("plain");
    for name in ["unet", "scheduler"] {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        for file in all_files(&run().join(name)) {
            std::fs::copy(&file, folder.join(name).join(file.file_name().unwrap())).unwrap();
        }
    }
    let said = case.push(&folder, &[]).expect(1).stderr();
    assert!(said.contains("it has no model_index.json"), "{said}");
    std::fs::write(folder.join("config.toml"), RUN).unwrap();
    let said = case.push(&folder, &[]).expect(1).stderr();
    assert!(said.contains("its training has not ended") && said.contains("train --resume"), "{said}");
    assert!(case.hub.requests().is_empty());

    // a folder as Python saves it, with a card of the user's
    std::fs::remove_file(folder.join("config.toml")).unwrap();
    std::fs::copy(run().join("model_index.json"), folder.join("model_index.json")).unwrap();
    std::fs::write(folder.join("README.md"), "# Mine\n").unwrap();
    std::fs::write(folder.join("secret.txt"), "not for others").unwrap();
    case.push(&folder, &["--private", "--message", "From Python", "--branch", "main"]).expect(0);
    assert_eq!(case.paths().len(), 6);
    assert_eq!(case.repos.is_private(REPO), Some(true));
    assert!(case.card().contains("# Mine\n\n<!-- how to use it -->"), "{}", case.card());
    assert_eq!(case.repos.titles(REPO, "main").unwrap()[1], "From Python");

    // the shards of another version would be loaded instead of new weights
    let convert = ["convert", folder.to_str().unwrap(), "sharded", "--max-shard-size", "4KB"];
    case.place.run(&convert).expect(0);
    let said = case.push(&case.place.path("sharded"), &["--pull-request"]).expect(0).stdout();
    assert!(
        said.contains("The pull request: ") && said.contains("Deleted unet/diffusion_pytorch_model.safetensors"),
        "{said}"
    );
    assert_eq!(case.paths().len(), 6);
    case.push(&case.place.path("sharded"), &[]).expect(0);
    assert!(case.paths().len() > 7);
    case.push(&folder, &[]).expect(0);
    assert_eq!(case.paths().len(), 6);
}

#[test]
fn errors_name_a_remedy() {
    let run = run();
    for (token, part, trouble, words) in [
        ("", "", None, vec!["HF_TOKEN", "/settings/tokens"]),
        (READ, "", None, vec!["HTTP 403", "may only read"]),
        (WRITE, "/commit/", Some(Trouble::Refuse(507, "", "", "")), vec!["no room"]),
        (WRITE, "/xorb", Some(Trouble::Refuse(500, "", "", "")), vec!["large files", "nothing was committed"]),
        (WRITE, "/xorb", Some(Trouble::Close), vec!["large files", "nothing was committed"]),
        (WRITE, "/create", Some(Trouble::Silent), vec!["sent nothing for 2 s", "HF_HUB_ETAG_TIMEOUT"]),
    ] {
        let case = Case::new();
        case.repos.large(".safetensors");
        case.repos.trouble(part, trouble.filter(|_| !part.is_empty()));
        let mut command = case.command(token, &["push", run.to_str().unwrap(), REPO]);
        command.env("HF_HUB_ETAG_TIMEOUT", "1").env("HF_HUB_DOWNLOAD_TIMEOUT", "1");
        let said = Done(command.output().unwrap()).expect(1).stderr();
        assert!(said.starts_with("error: ") && words.iter().all(|word| said.contains(word)), "{said}");
        assert!(!said.contains("hf_may") && !said.contains("cas_token"), "{said}");
        assert!(case.repos.titles(REPO, "main").is_none_or(|titles| titles.len() == 1));
    }
    let case = Case::new();
    let mut command = case.command(WRITE, &["push", run.to_str().unwrap(), REPO]);
    let said = Done(command.env("HF_HUB_OFFLINE", "1").output().unwrap()).expect(1).stderr();
    assert!(said.contains("HF_HUB_OFFLINE"), "{said}");
    let said = case.push(&run, &["--license", "my: own"]).expect(2).stderr();
    assert!(said.contains("apache-2.0"), "{said}");
}

#[test]
#[cfg(unix)]
fn an_interrupted_push_changes_nothing() {
    let (case, run) = (Case::new(), run());
    case.repos.create(REPO, false);
    case.repos.trouble("/commit/", Trouble::Silent);
    for kill in [false, true] {
        case.hub.requests();
        let mut command = case.command(WRITE, &["push", run.to_str().unwrap(), REPO]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begin = Instant::now();
        while !case.hub.requests().iter().any(|request| request.path.contains("/commit/")) {
            assert!(begin.elapsed() < Duration::from_secs(60), "no commit begins");
            std::thread::sleep(Duration::from_millis(20));
        }
        match kill {
            true => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            false => interrupt(child),
        }
        assert_eq!(case.repos.titles(REPO, "main").unwrap(), ["initial commit"]);
    }
    case.repos.trouble("/commit/", None);
    case.push(&run, &[]).expect(0);
    assert_eq!(case.repos.titles(REPO, "main").unwrap().len(), 2);
}

#[test]
#[ignore = "needs a Python with torch and diffusers, named by KAKUSAN_PYTHON"]
fn python_reads_what_was_pushed() {
    let python = std::env::var("KAKUSAN_PYTHON").expect("KAKUSAN_PYTHON names a Python with what the script needs");
    let (case, run) = (Case::new(), run());
    case.repos.large(".safetensors");
    case.push(&run, &["--license", "mit"]).expect(0);
    let args = ["sample", "--model", REPO, "--steps", "5", "--batch", "3", "--save-tensor", "ours.safetensors"];
    Done(case.command(WRITE, &args).output().unwrap()).expect(0);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/hub.py");
    let mut command = Command::new(python);
    command.arg(script).args(["--repo", REPO, "--images", case.place.path("ours.safetensors").to_str().unwrap()]);
    command.env("HF_ENDPOINT", case.hub.url()).env("HF_TOKEN", WRITE).env("HF_HOME", case.place.path("python"));
    let done = Done(command.output().unwrap()).expect(0);
    assert!(done.stdout().contains("the same images"), "{}", done.stdout());
    // what Python pushed by the same protocol is there, too
    assert_eq!(case.repos.files("ada/from-python", "main")["hello.txt"], b"from Python");
    assert_eq!(case.repos.titles("ada/from-python", "main").unwrap(), ["initial commit", "By Python"]);
}
