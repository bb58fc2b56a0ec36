//! End-to-end tests with MNIST from the Hub. A fake server serves the first 512 images in the Hub's format.
//! `cargo test -- --ignored whole_mnist` serves the Hub's own file, from the folder `ylecun-mnist` in the folder that
//! the environment variable `KAKUSAN_HUB_DIR` names.

mod common;

#[path = "../../../tests/support/fake_hub.rs"]
mod fake_hub;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use fake_hub::{FakeHub, Fault};
use kakusan_data::{DataConfig, DatasetName, Error, OnBadImage, SourceKind, load_with_hub};
use kakusan_hub::{Hub, HubConfig};

const REPO: &str = "datasets/ylecun/mnist";
const FILE: &str = "mnist/train/0000.parquet";

fn excerpt() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/mnist/hub")
}

mod whole_mnist {
    use super::*;

    #[test]
    #[ignore = "needs the Hub's file of MNIST, in KAKUSAN_HUB_DIR"]
    fn mnist_comes_from_the_hub_once_and_from_the_cache_offline() {
        let folder = std::env::var_os("KAKUSAN_HUB_DIR").expect("KAKUSAN_HUB_DIR names the folder of the Hub's files");
        comes_from_the_hub_once(&PathBuf::from(folder).join("ylecun-mnist"), 18_435);
    }
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
    comes_from_the_hub_once(&excerpt(), 161);
}

fn comes_from_the_hub_once(folder: &Path, count: usize) {
    let (server, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    server.serve_folder(REPO, folder);
    let mut settings = HubConfig::new(server.url(), cache.path());
    let first = load_with_hub(&config(&[SourceKind::Hub]), &Hub::new(settings.clone())).unwrap();
    assert_eq!(first.source.kind, Some(SourceKind::Hub));
    assert_eq!((first.images.height(), first.images.width(), first.images.len()), (28, 28, count));
    let is_download = |request: &&fake_hub::Request| request.method == "GET" && request.path.contains("/resolve/");
    assert_eq!(server.requests().iter().filter(is_download).count(), 1);

    settings.offline = true;
    let second = load_with_hub(&config(&[SourceKind::Hub]), &Hub::new(settings)).unwrap();
    assert!(server.requests().is_empty());
    assert_eq!(first.images.labels(), second.images.labels());
    assert!((0..first.images.len()).all(|i| first.images.image(i).unwrap() == second.images.image(i).unwrap()));
}

#[test]
fn the_hubs_file_altered_or_cut_short_is_refused_and_the_next_source_is_asked() {
    for fault in [Fault::Altered, Fault::CutShort, Fault::Half] {
        let (server, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
        server.serve_folder(REPO, &excerpt());
        server.fault(fault.clone());
        let hub = Hub::new(HubConfig::new(server.url(), cache.path()));
        let loaded = load_with_hub(&config(&[SourceKind::Hub, SourceKind::Drawn]), &hub).unwrap();
        assert_eq!((loaded.source.kind, loaded.images.len()), (Some(SourceKind::Drawn), 15));
        assert!(loaded.skipped[0].reason.contains(FILE), "{:?}", loaded.skipped);
        // the partial file of a failed download is kept for resuming, but is not a file of the cache
        let blobs = std::fs::read_dir(cache.path().join("datasets--ylecun--mnist/blobs")).unwrap();
        let whole = blobs.filter(|blob| !blob.as_ref().unwrap().file_name().to_string_lossy().ends_with(".incomplete"));
        assert_eq!(whole.count(), 0);
    }
}

#[test]
fn a_file_that_is_no_parquet_is_named() {
    let (server, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    server.serve(REPO, FILE, "rubbish with a right checksum");
    let error =
        load_with_hub(&config(&[SourceKind::Hub]), &Hub::new(HubConfig::new(server.url(), cache.path()))).unwrap_err();
    assert!(matches!(error, Error::NoSource { .. }));
    let text = error.to_string();
    assert!(text.contains("0000.parquet") && text.contains("not a valid parquet file"), "{text}");
}

#[test]
fn a_hub_that_is_away_is_passed_over_with_its_reason() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new(HubConfig::new("http://127.0.0.1:1", cache.path()));
    let loaded = load_with_hub(&config(&[SourceKind::Hub, SourceKind::Drawn]), &hub).unwrap();
    assert_eq!(loaded.source.kind, Some(SourceKind::Drawn));
    assert!(loaded.skipped[0].reason.contains("cannot be reached"), "{:?}", loaded.skipped);
}

/// A parquet file as `datasets` writes it: pictures, their paths, and optionally labels, in a column that is declared
/// to hold classes.
fn parquet(image: &str, label: Option<&str>, rows: &[(Vec<u8>, i64)], group: usize) -> Vec<u8> {
    use parquet::data_type::{ByteArrayType, Int64Type};
    use parquet::file::{metadata::KeyValue, properties::WriterProperties, writer::SerializedFileWriter};
    let labels = label.map(|name| format!("optional int64 {name};")).unwrap_or_default();
    let schema = format!(
        "message schema {{ optional group {image} {{ optional binary bytes; optional binary path (UTF8); }} {labels} }}"
    );
    let declared = format!(
        r#"{{"info": {{"features": {{"{}": {{"names": ["ape", "bee", "cow"], "_type": "ClassLabel"}}, "{image}": {{"_type": "Image"}}}}}}}}"#,
        label.unwrap_or("none")
    );
    let pair = KeyValue::new("huggingface".to_owned(), declared);
    let properties = WriterProperties::builder()
        .set_key_value_metadata(Some(vec![pair]))
        .set_compression(parquet::basic::Compression::SNAPPY)
        .set_data_page_row_count_limit(2)
        .set_write_batch_size(1)
        .build();
    let schema = Arc::new(parquet::schema::parser::parse_message_type(&schema).unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).unwrap();
    for rows in rows.chunks(group) {
        let mut group = writer.next_row_group().unwrap();
        let files: Vec<_> = rows.iter().map(|(file, _)| file.clone().into()).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&files, Some(&vec![2; rows.len()]), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&[], Some(&vec![1; rows.len()]), None).unwrap();
        column.close().unwrap();
        if label.is_some() {
            let labels: Vec<i64> = rows.iter().map(|(_, label)| *label).collect();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<Int64Type>().write_batch(&labels, Some(&vec![1; rows.len()]), None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

/// Pictures of 4 x (4 or more) pixels, each with a different first pixel.
fn pictures(numbers: std::ops::Range<u8>) -> Vec<(Vec<u8>, i64)> {
    numbers.map(|i| (common::grey_png(4 + u32::from(i % 3), 4, i), i64::from(i % 3))).collect()
}

fn any_set(repo: &str) -> DataConfig {
    DataConfig {
        repo: Some(repo.to_owned()),
        resolution: Some(4.into()),
        center_crop: true,
        ..DataConfig::new(DatasetName::Hub)
    }
}

#[test]
fn any_set_of_the_hub_in_all_its_files() {
    let (server, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let repo = "datasets/owner/zoo";
    server.serve(repo, "default/train/0000.parquet", parquet("photo", Some("animal"), &pictures(0..7), 3));
    server.serve(repo, "default/train/0001.parquet", parquet("photo", Some("animal"), &pictures(7..12), 5));
    server.serve(repo, "bees/test/0000.parquet", parquet("photo", None, &pictures(0..2), 9));
    let hub = Hub::new(HubConfig::new(server.url(), cache.path()));
    let loaded = load_with_hub(&any_set("owner/zoo"), &hub).unwrap();
    assert_eq!(loaded.source.description, "the Hub's data set owner/zoo (default, train; 2 files)");
    assert_eq!(loaded.images.class_names(), ["ape", "bee", "cow"]);
    assert_eq!(loaded.images.labels(), [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]);
    let firsts: Vec<u8> = (0..12).map(|i| loaded.images.image(i).unwrap()[0]).collect();
    // Of every three pictures the second is 1 wider and the third 2 wider. Their crops begin at 0 (0.5 rounded to even)
    // and at 1.
    assert_eq!(firsts[..7], [0, 1, 3, 3, 4, 6, 6]);

    // The result is the same if the pictures stay in their file, for any number of threads.
    let config = DataConfig { cache_mb: Some(0), ..any_set("owner/zoo") };
    let lazy = load_with_hub(&config, &hub).unwrap().images;
    assert!(!lazy.is_held());
    assert!((0..12).all(|i| lazy.image(i).unwrap() == loaded.images.image(i).unwrap()));
    let rng = || kakusan_rng::Generator::new(1);
    let expected = common::epoch(&loaded.images, 1, 1, &mut rng());
    for (threads, prefetch) in [(1, 1), (4, 4), (3, 5)] {
        assert_eq!(common::epoch(&lazy, threads, prefetch, &mut rng()), expected);
    }

    let some = load_with_hub(&any_set("owner/zoo").with_classes(["cow"]), &hub).unwrap().images;
    assert_eq!(some.labels(), [2; 4]);
    let (config_name, split) = (Some("bees".to_owned()), Some("test".to_owned()));
    let bees = load_with_hub(&DataConfig { config_name, split, ..any_set("owner/zoo") }, &hub).unwrap().images;
    assert_eq!((bees.labels(), bees.class_names()), (&[0, 0][..], &["images".to_owned()][..]));

    // From the cache, offline.
    let mut settings = HubConfig::new(server.url(), cache.path());
    settings.offline = true;
    assert_eq!(load_with_hub(&any_set("owner/zoo"), &Hub::new(settings)).unwrap().images, loaded.images);
}

#[test]
fn a_set_that_is_not_there_or_not_clear_is_explained() {
    let (server, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let hub = Hub::new(HubConfig::new(server.url(), cache.path()));
    let refused = |config: &DataConfig| load_with_hub(config, &hub).unwrap_err().to_string();
    // The cache holds nothing of these sets: Python would treat a repository without a file as damaged.
    assert!(!cache.path().join("datasets--owner--zoo").exists());
    let text = refused(&any_set("owner/none"));
    assert!(text.contains("default/train/0000.parquet") && text.contains("`repo`, `config_name`"), "{text}");

    let mut bad = pictures(0..4);
    bad[2].0.truncate(40);
    server.serve("datasets/owner/bad", "default/train/0000.parquet", parquet("image", Some("label"), &bad, 9));
    let text = refused(&any_set("owner/bad"));
    assert!(text.contains("0000.parquet: the image in row 2 is damaged"), "{text}");
    let skip = DataConfig { on_bad_image: OnBadImage::Skip, ..any_set("owner/bad") };
    let loaded = load_with_hub(&skip, &hub).unwrap();
    assert_eq!((loaded.images.labels(), loaded.bad_images[0].row), (&[0, 1, 0][..], Some(2)));

    let text = refused(&DataConfig { image_column: Some("photo".to_owned()), ..any_set("owner/bad") });
    assert!(text.contains("has no column photo.bytes") && text.contains("image.bytes, image.path, label"), "{text}");
    let text = refused(&DataConfig { label_column: Some("class".to_owned()), ..any_set("owner/bad") });
    assert!(text.contains("has no column class"), "{text}");
}

/// A server with a set of three files, and an empty cache.
fn three_files() -> (FakeHub, tempfile::TempDir) {
    let (server, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    for number in 0..3u8 {
        let file = parquet("image", Some("label"), &pictures(4 * number..4 * number + 4), 9);
        server.serve("datasets/owner/three", &format!("default/train/000{number}.parquet"), file);
    }
    (server, cache)
}

fn load_three(server: &FakeHub, cache: &Path, offline: bool) -> Result<usize, String> {
    let mut settings = HubConfig::new(server.url(), cache);
    settings.offline = offline;
    load_with_hub(&any_set("owner/three"), &Hub::new(settings))
        .map(|set| set.images.len())
        .map_err(|error| error.to_string())
}

#[test]
fn a_part_of_a_set_never_passes_for_the_whole() {
    for lists in [true, false] {
        let (server, cache) = three_files();
        // The connection breaks at the second file. The files that are already there are not accepted as the set.
        server.fault(Fault::Drop("0001.parquet"));
        let text = load_three(&server, cache.path(), false).unwrap_err();
        assert!(text.contains("default/train/0001.parquet") && text.contains("sent no complete answer"), "{text}");
        let text = load_three(&server, cache.path(), true).unwrap_err();
        assert!(
            text.contains("2 of the 3 files of owner/three") && text.contains("default/train/0001.parquet"),
            "{text}"
        );

        server.fault((!lists).then_some(Fault::NoListing));
        assert_eq!(load_three(&server, cache.path(), false), Ok(12));
        assert_eq!(load_three(&server, cache.path(), true), Ok(12));
        // A file that was removed later.
        std::fs::remove_file(snapshot_of_three(cache.path()).join("default/train/0002.parquet")).unwrap();
        let text = load_three(&server, cache.path(), true).unwrap_err();
        assert!(text.contains("1 of the 3 files of owner/three") && text.contains("0002.parquet"), "{text}");
    }
    // If a server serves files but no listing, all files are requested before the first is downloaded.
    let (server, cache) = three_files();
    server.fault(Fault::NoListing);
    assert_eq!(load_three(&server, cache.path(), false), Ok(12));
    let asked: Vec<_> = server.requests().into_iter().filter(|request| request.path.contains("/resolve/")).collect();
    let first = asked.iter().position(|request| request.method == "GET").unwrap();
    assert!(asked[..first].iter().any(|request| request.path.contains("0003.parquet")), "{asked:?}");
}

fn snapshot_of_three(cache: &Path) -> PathBuf {
    cache.join("datasets--owner--three/snapshots").join(fake_hub::COMMIT)
}

#[test]
fn files_of_two_commits_are_no_set() {
    for fault in [Fault::OtherCommit("0002.parquet"), Fault::OtherCommit("resolve")] {
        let (server, cache) = three_files();
        server.fault(fault);
        let text = load_three(&server, cache.path(), false).unwrap_err();
        assert!(text.contains("its answer is of the commit ffff"), "{text}");
        assert!(load_three(&server, cache.path(), true).is_err());
    }
}

/// Recreates what `snapshot_download` of Python's `huggingface_hub` leaves in the cache: a listing in `trees`, or no
/// listing in older versions.
#[test]
fn a_set_that_python_fetched_is_read_offline_if_it_is_whole() {
    let (server, cache) = three_files();
    assert_eq!(load_three(&server, cache.path(), false), Ok(12));
    let repo = cache.path().join("datasets--owner--three");
    std::fs::remove_dir_all(repo.join(".listings")).unwrap();
    assert_eq!(load_three(&server, cache.path(), true), Ok(12));

    let entry = |name: &str| format!("\"default/train/{name}\": {{\"size\": 1, \"blob_id\": \"0\"}}");
    let names = ["0000.parquet", "0001.parquet", "0002.parquet"];
    let tree = |names: &[&str]| {
        let files = names.iter().map(|name| entry(name)).collect::<Vec<_>>().join(", ");
        format!("{{\"format_version\": 1, \"files\": {{{files}}}}}")
    };
    let path = repo.join(format!("trees/{}.json", fake_hub::COMMIT));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, tree(&names)).unwrap();
    assert_eq!(load_three(&server, cache.path(), true), Ok(12));
    std::fs::write(&path, tree(&[&names[..], &["0003.parquet"]].concat())).unwrap();
    let text = load_three(&server, cache.path(), true).unwrap_err();
    assert!(text.contains("1 of the 4 files of owner/three"), "{text}");
}

#[test]
fn the_splits_and_configurations_that_there_are_are_told() {
    let (server, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let file = || parquet("image", Some("label"), &pictures(0..3), 9);
    server.serve("datasets/owner/large", "default/partial-train/0000.parquet", file());
    server.serve("datasets/owner/zoo", "bees/train/0000.parquet", file());
    server.serve("datasets/owner/zoo", "apes/test/0000.parquet", file());
    server.serve("datasets/owner/zoo", "apes/validation/0000.parquet", file());
    server.serve("datasets/owner/none", "README.md", "nothing yet");
    let hub = Hub::new(HubConfig::new(server.url(), cache.path()));
    let refused = |config: &DataConfig| load_with_hub(config, &hub).unwrap_err().to_string();
    for fault in [None, Some(Fault::NoListing)] {
        server.fault(fault);
        let text = refused(&any_set("owner/large"));
        assert!(
            text.contains("owner/large has no split \"train\" of \"default\"; there is \"partial-train\""),
            "{text}"
        );
    }
    server.fault(None);
    let partial = DataConfig { split: Some("partial-train".to_owned()), ..any_set("owner/large") };
    assert_eq!(load_with_hub(&partial, &hub).unwrap().images.len(), 3);

    let text = refused(&any_set("owner/zoo"));
    assert!(
        text.contains("`config_name` is one of these (with their splits): apes (test, validation), bees (train)"),
        "{text}"
    );
    let text = refused(&DataConfig { config_name: Some("apes".to_owned()), ..any_set("owner/zoo") });
    assert!(text.contains("no split \"train\" of \"apes\"; `split` is one of test, validation"), "{text}");
    // The cache holds nothing of these sets: Python would treat a repository without a file as damaged.
    assert!(!cache.path().join("datasets--owner--zoo").exists());
    let text = refused(&any_set("owner/none"));
    assert!(text.contains("owner/none has no parquet files at refs/convert/parquet"), "{text}");
}

#[test]
fn cifar_from_the_hub() {
    let (server, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let rgb = |i: u8| {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 32, 32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header().unwrap().write_image_data(&[i, 100, 200].repeat(1024)).unwrap();
        bytes
    };
    let rows: Vec<_> = (0..10).map(|i| (rgb(i), i64::from(i))).collect();
    let file = parquet("img", Some("label"), &rows, 4);
    server.serve("datasets/uoft-cs/cifar10", "plain_text/train/0000.parquet", file);
    let hub = Hub::new(HubConfig::new(server.url(), cache.path()));
    let images =
        load_with_hub(&DataConfig::new(DatasetName::Cifar10).with_classes(["truck", "ship"]), &hub).unwrap().images;
    assert_eq!((images.shape(), images.labels()), ([3, 32, 32], &[8, 9][..]));
    let image = images.image(1).unwrap();
    assert_eq!([image[0], image[1024], image[2048]], [9, 100, 200]);
    // MNIST is 28 x 28; images of another size are refused.
    server.serve(REPO, FILE, parquet("image", Some("label"), &[(rgb(0), 1)], 1));
    let text = load_with_hub(&config(&[SourceKind::Hub]), &hub).unwrap_err().to_string();
    assert!(text.contains("ylecun/mnist holds images of [1, 32, 32]"), "{text}");
}
