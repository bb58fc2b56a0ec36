//! MNIST from the Hub, end to end: a stand-in serves the Hub's own file. Set `KAKUSAN_HUB_DIR` to the folder that holds `ylecun-mnist/`
//! for the tests on the real file.

#[path = "../../../tests/support/fake_hub.rs"]
mod fake_hub;

use std::path::PathBuf;

use fake_hub::{FakeHub, Fault};
use kakusan_data::{DataConfig, DatasetName, Error, SourceKind, load};
use kakusan_hub::{Hub, HubConfig};

const REPO: &str = "datasets/ylecun/mnist";
const FILE: &str = "mnist/train/0000.parquet";

fn real_mnist() -> Option<PathBuf> {
    std::env::var_os("KAKUSAN_HUB_DIR").map(|folder| PathBuf::from(folder).join("ylecun-mnist"))
}

fn config(sources: &[SourceKind]) -> DataConfig {
    DataConfig {
        sources: sources.to_vec(),
        drawn_per_class: 5,
        ..DataConfig::new(DatasetName::Mnist).with_classes([1, 8, 4])
    }
}

#[test]
fn mnist_comes_from_the_hub_once_and_from_the_cache_offline() {
    let Some(folder) = real_mnist() else { return };
    let (server, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    server.serve_folder(REPO, &folder);
    let mut settings = HubConfig::new(server.url(), cache.path());
    let first = load(&config(&[SourceKind::Hub]), &Hub::new(settings.clone())).unwrap();
    assert_eq!(first.source.kind, SourceKind::Hub);
    assert_eq!((first.images.height(), first.images.width(), first.images.len()), (28, 28, 18_435));
    assert_eq!(server.requests().iter().filter(|request| request.method == "GET").count(), 1);

    settings.offline = true;
    let second = load(&config(&[SourceKind::Hub]), &Hub::new(settings)).unwrap();
    assert!(server.requests().is_empty());
    assert_eq!(first.images.labels(), second.images.labels());
    assert!((0..first.images.len()).all(|i| first.images.image(i).unwrap() == second.images.image(i).unwrap()));
}

#[test]
fn the_hubs_file_altered_or_cut_short_is_refused_and_the_next_source_is_asked() {
    let Some(folder) = real_mnist() else { return };
    for fault in [Fault::Altered, Fault::CutShort, Fault::Half] {
        let (server, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
        server.serve_folder(REPO, &folder);
        server.fault(fault.clone());
        let hub = Hub::new(HubConfig::new(server.url(), cache.path()));
        let loaded = load(&config(&[SourceKind::Hub, SourceKind::Drawn]), &hub).unwrap();
        assert_eq!((loaded.source.kind, loaded.images.len()), (SourceKind::Drawn, 15));
        assert!(loaded.skipped[0].reason.contains(FILE), "{:?}", loaded.skipped);
        assert_eq!(std::fs::read_dir(cache.path().join("datasets--ylecun--mnist/blobs")).unwrap().count(), 0);
    }
}

#[test]
fn a_file_that_is_no_parquet_is_named() {
    let (server, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    server.serve(REPO, FILE, "rubbish with a right checksum");
    let error = load(&config(&[SourceKind::Hub]), &Hub::new(HubConfig::new(server.url(), cache.path()))).unwrap_err();
    assert!(matches!(error, Error::NoSource { .. }));
    let text = error.to_string();
    assert!(text.contains("0000.parquet") && text.contains("not a sound parquet file"), "{text}");
}

#[test]
fn a_hub_that_is_away_is_passed_over_with_its_reason() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new(HubConfig::new("http://127.0.0.1:1", cache.path()));
    let loaded = load(&config(&[SourceKind::Hub, SourceKind::Drawn]), &hub).unwrap();
    assert_eq!(loaded.source.kind, SourceKind::Drawn);
    assert!(loaded.skipped[0].reason.contains("cannot be reached"), "{:?}", loaded.skipped);
}
