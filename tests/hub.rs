//! The command and the Hub: a stand-in on loopback serves MNIST as the Hub does. Needs the Hub's files in the folder that
//! `KAKUSAN_HUB_DIR` names, and passes without them.

#[path = "support/command.rs"]
mod command;
#[path = "support/fake_hub.rs"]
mod fake_hub;

use std::path::PathBuf;

use command::{Done, Workplace, config};
use fake_hub::{FakeHub, Fault};

fn train(place: &Workplace, hub: &FakeHub, out: &str, offline: bool) -> Done {
    let config = config("184.toml");
    let args =
        ["train", "--config", config.to_str().unwrap(), "--out", out, "--max-steps", "2", "--set", "sample.steps=2"];
    let mut command = place.kakusan(&args);
    command.env("HF_ENDPOINT", hub.url()).env("HF_HUB_OFFLINE", if offline { "1" } else { "0" });
    Done(command.output().unwrap())
}

fn serve() -> Option<FakeHub> {
    let folder = PathBuf::from(std::env::var_os("KAKUSAN_HUB_DIR")?).join("ylecun-mnist");
    let hub = FakeHub::start();
    hub.serve_folder("datasets/ylecun/mnist", &folder);
    Some(hub)
}

#[test]
fn mnist_is_fetched_once_and_read_offline_afterwards() {
    let Some(hub) = serve() else { return };
    let place = Workplace::new();
    let said = train(&place, &hub, "first", false).expect(0).stdout();
    assert!(said.contains("18435 images from the Hub's data set ylecun/mnist"), "{said}");
    assert!(place.path("hf/hub/datasets--ylecun--mnist/refs/refs/convert/parquet").is_file());
    hub.requests();
    let said = train(&place, &hub, "second", true).expect(0).stdout();
    assert!(said.contains("18435 images from the Hub's data set ylecun/mnist"), "{said}");
    assert!(hub.requests().is_empty());
}

#[test]
fn a_damaged_download_is_refused_aloud_and_the_next_source_answers() {
    let Some(hub) = serve() else { return };
    let place = Workplace::new();
    hub.fault(Fault::Altered);
    let said = train(&place, &hub, "run", false).expect(0).stdout();
    assert!(said.contains("Data: not from `hub`: ") && said.contains("digits drawn"), "{said}");
    assert_eq!(std::fs::read_dir(place.path("hf/hub/datasets--ylecun--mnist/blobs")).unwrap().count(), 0);
}
