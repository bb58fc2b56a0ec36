//! The command and the Hub: a fake Hub on a loopback port serves data sets, of MNIST the first 512 images, and takes
//! pipelines (`push.rs`).

#[path = "support/command.rs"]
mod command;
#[path = "support/fake_hub.rs"]
mod fake_hub;
#[path = "support/fake_repo.rs"]
mod fake_repo;
#[path = "hub/push.rs"]
mod push;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use command::{Done, Workplace, config};
use fake_hub::{FakeHub, Fault};

fn train(place: &Workplace, hub: &FakeHub, out: &str, offline: bool) -> Done {
    Done(training(place, hub, out, offline).output().unwrap())
}

fn training(place: &Workplace, hub: &FakeHub, out: &str, offline: bool) -> Command {
    let config = config("184.toml");
    let args =
        ["train", "--config", config.to_str().unwrap(), "--out", out, "--max-steps", "2", "--set", "sample.steps=2"];
    let mut command = place.kakusan(&args);
    command.env("HF_ENDPOINT", hub.url()).env("HF_HUB_OFFLINE", if offline { "1" } else { "0" });
    command
}

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

fn serve() -> FakeHub {
    let hub = FakeHub::start();
    hub.serve_folder("datasets/ylecun/mnist", &golden().join("mnist/hub"));
    hub
}

#[test]
fn mnist_is_fetched_once_and_read_offline_afterwards() {
    let (hub, place) = (serve(), Workplace::new());
    let said = train(&place, &hub, "first", false).expect(0).stdout();
    assert!(said.contains("161 images from the Hub's data set ylecun/mnist"), "{said}");
    assert!(place.path("hf/hub/datasets--ylecun--mnist/refs/refs/convert/parquet").is_file());
    hub.requests();
    let said = train(&place, &hub, "second", true).expect(0).stdout();
    assert!(said.contains("161 images from the Hub's data set ylecun/mnist"), "{said}");
    assert!(hub.requests().is_empty());
}

#[test]
fn a_damaged_download_is_reported_and_the_next_source_is_used() {
    let (hub, place) = (serve(), Workplace::new());
    hub.fault(Fault::Altered);
    let said = train(&place, &hub, "run", false).expect(0).stdout();
    assert!(said.contains("Data: skipped the source `hub`: ") && said.contains("digits drawn"), "{said}");
    assert_eq!(std::fs::read_dir(place.path("hf/hub/datasets--ylecun--mnist/blobs")).unwrap().count(), 0);
}

/// Sends Ctrl-C and expects the command to end at once, before what it waits for.
#[cfg(unix)]
fn interrupt(mut child: Child) {
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(8) {
        if let Some(status) = child.try_wait().unwrap() {
            return assert_eq!(status.code(), Some(130));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    panic!("it goes on for {:?} after Ctrl-C", begin.elapsed());
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_a_download_at_once_and_the_next_run_continues_it() {
    let (hub, place) = (serve(), Workplace::new());
    hub.fault(Fault::StandStill);
    let mut command = training(&place, &hub, "run", false);
    let child =
        command.env("HF_HUB_DOWNLOAD_TIMEOUT", "60").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let blobs = place.path("hf/hub/datasets--ylecun--mnist/blobs");
    let received = || {
        let files = std::fs::read_dir(&blobs).into_iter().flatten().flatten();
        files.map(|file| file.metadata().unwrap().len()).sum::<u64>()
    };
    let begin = Instant::now();
    while received() == 0 {
        assert!(begin.elapsed() < Duration::from_secs(60), "no download begins");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(200)); // until the download stalls
    interrupt(child);
    let there = received() as usize;
    assert!(!place.path("run").exists());

    hub.fault(None);
    hub.requests();
    let said = train(&place, &hub, "run", false).expect(0).stdout();
    assert!(said.contains("161 images from the Hub's data set ylecun/mnist"), "{said}");
    let ranges: Vec<_> = hub.requests().into_iter().filter_map(|request| request.range).collect();
    assert_eq!(ranges.iter().map(|range| range.0).collect::<Vec<_>>(), [there]);
}

#[test]
#[cfg(unix)]
fn a_wait_for_the_hub_is_reported_and_ctrl_c_ends_it() {
    let (hub, place) = (serve(), Workplace::new());
    hub.fault(Fault::Refuse(429, "", "Retry-After: 250\r\n"));
    let mut command = training(&place, &hub, "run", false);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(
        said.starts_with("The Hub asks us to wait (HTTP 429): continuing with") && said.ends_with("in 250 s.\n"),
        "{said}"
    );
    interrupt(child);
}

/// A tiny network on files written by pyarrow, served as a data set of the Hub.
const ANY_SET: &str = r#"
data = { name = "hub", repo = "golden/set", resolution = 8 }
model = { _class_name = "UNet2DModel", sample_size = 8, in_channels = 1, out_channels = 1, layers_per_block = 1, norm_num_groups = 4, block_out_channels = [8, 8], down_block_types = ["DownBlock2D", "DownBlock2D"], up_block_types = ["UpBlock2D", "UpBlock2D"] }
scheduler = { _class_name = "DDPMScheduler" }
train = { epochs = 1, batch_size = 4, max_steps = 1 }
sample = { steps = 2, batch_size = 2 }
"#;

fn train_any_set(file: &str, more: &[&str]) -> Done {
    let golden = golden().join("parquet").join(file);
    let (hub, place) = (FakeHub::start(), Workplace::new());
    hub.serve("datasets/golden/set", "default/train/0000.parquet", std::fs::read(golden).unwrap());
    std::fs::write(place.path("set.toml"), ANY_SET).unwrap();
    let sets = more.iter().flat_map(|set| ["--set", set]);
    let args: Vec<&str> = ["train", "--config", "set.toml", "--out", "run"].into_iter().chain(sets).collect();
    let mut command = place.kakusan(&args);
    command.env("HF_ENDPOINT", hub.url()).env("HF_HUB_OFFLINE", "0");
    Done(command.output().unwrap())
}

#[test]
fn a_model_of_classes_needs_images_with_classes() {
    let classes = "model.num_class_embeds=3";
    for file in ["label_text.parquet", "label_names.parquet", "label_int8.parquet"] {
        train_any_set(file, &[classes]).expect(0);
    }
    for (file, reason) in [
        ("label_none.parquet", "has no column of labels"),
        ("label_float.parquet", "column label is of type DOUBLE"),
        ("label_negative.parquet", "row 4 has the label -1"),
    ] {
        let said = train_any_set(file, &[classes]).expect(2).stderr();
        assert!(said.contains("the model needs classes, but the images have none") && said.contains(reason), "{said}");
        // A model without classes trains on, with a message.
        let said = train_any_set(file, &[]).expect(0).stdout();
        assert!(said.contains("the images have no classes") && said.contains(reason), "{said}");
    }
    train_any_set("label_text.parquet", &[classes, "data.label_column=none"]).expect(2);
}

#[test]
fn a_model_of_the_hub_is_fine_tuned_and_its_commit_recorded() {
    let (hub, place) = (FakeHub::start(), Workplace::new());
    hub.serve_folder("owner/tiny", &golden().join("finetune"));
    let text = "data = { name = \"mnist\", classes = [0, 1], sources = [\"drawn\"], drawn_per_class = 4 }\n\
                model = { from = \"owner/tiny\", sample_size = 28, num_class_embeds = 3 }\n\
                train = { max_steps = 2, batch_size = 4, freeze = [\"down_blocks\"] }\n\
                sample = { steps = 2, batch_size = 2 }\n";
    std::fs::write(place.path("my.toml"), text).unwrap();
    let train = |more: &[&str]| {
        let args = [&["train", "--config", "my.toml"], more].concat();
        let mut command = place.kakusan(&args);
        Done(command.env("HF_ENDPOINT", hub.url()).env("HF_HUB_OFFLINE", "0").output().unwrap())
    };
    let said = train(&["--out", "run"]).expect(0).stdout();
    let name = format!("owner/tiny@{}", fake_hub::COMMIT);
    for expected in [
        &format!("Pretrained model: {name}, trained with DDPMScheduler: diffusion over timesteps"),
        "class_embedding.weight: row 2 is new, and random.",
        "Frozen: down_blocks (",
    ] {
        assert!(said.contains(expected), "{expected}\nnot in\n{said}");
    }
    let read = |file: &str| std::fs::read_to_string(place.path("run").join(file)).unwrap();
    assert!(read("config.toml").contains(&format!("from = \"{name}\"")));
    assert!(read("README.md").contains("\nbase_model: owner/tiny\n") && read("report.html").contains(&name));
    for (set, expected) in [
        ("model.from=no/such", "there is no folder no/such here, and it is not on the Hub: "),
        ("model.layers_per_block=2", "set in [model], as the pretrained model has it: layers_per_block = 1"),
    ] {
        let said = train(&["--out", "other", "--set", set]).expect(2).stderr();
        assert!(said.contains(expected) && !place.path("other").exists(), "{said}");
    }
}
