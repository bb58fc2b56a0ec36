//! Parquet files written by pyarrow (`tests/golden/parquet.py`), loaded as data sets of the Hub and from local folders.
//! Row `i` of each file has a grey picture of 4 x 3 pixels that count up from `i`. Its label is `i % 3`, unless the
//! file's name says otherwise.

mod common;

use std::{fs, path::Path};

use common::{folder_of, grey_png};
use kakusan_data::{DataConfig, DatasetName, Error, ImageSet, Loaded, OnBadImage, load, load_with_hub};
use kakusan_hub::{Hub, HubConfig};

const THIRDS: [u32; 12] = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2];

fn set() -> DataConfig {
    DataConfig { repo: Some("golden/set".to_owned()), ..DataConfig::new(DatasetName::Hub) }
}

fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/parquet");
    fs::read(folder.join(format!("{name}.parquet"))).unwrap()
}

/// Loads files as the train split of a set that Python left in the cache.
fn load_files(files: &[&str], config: &DataConfig) -> Result<Loaded, Error> {
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    let cache = tempfile::tempdir().unwrap();
    let repo = cache.path().join("datasets--golden--set");
    let split = repo.join("snapshots").join(COMMIT).join("default/train");
    fs::create_dir_all(&split).unwrap();
    fs::create_dir_all(repo.join("refs/refs/convert")).unwrap();
    fs::write(repo.join("refs/refs/convert/parquet"), COMMIT).unwrap();
    for (i, name) in files.iter().enumerate() {
        fs::write(split.join(format!("{i:04}.parquet")), golden(name)).unwrap();
    }
    let mut settings = HubConfig::new("http://127.0.0.1:1", cache.path());
    settings.offline = true;
    load_with_hub(config, &Hub::new(settings)).map(held)
}

/// Loads golden files from a local folder, under the given names.
fn load_folder(files: &[(&str, &str)], change: impl FnOnce(&mut DataConfig)) -> Result<Loaded, Error> {
    let dir = tempfile::tempdir().unwrap();
    for (path, name) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, golden(name)).unwrap();
    }
    let mut config = folder_of(dir.path());
    change(&mut config);
    load(&config).map(held)
}

/// Copies all images into memory. Images that stay in their files must be read before the files are deleted.
fn held(mut loaded: Loaded) -> Loaded {
    let images: Vec<_> = (0..loaded.images.len()).filter_map(|i| loaded.images.image(i).ok()).collect();
    let (shape, names) = (loaded.images.shape(), loaded.images.class_names().to_vec());
    assert_eq!(images.len(), loaded.images.len());
    let held = ImageSet::new(shape, images.concat(), loaded.images.labels().to_vec(), names).unwrap();
    loaded.images = held.into();
    loaded
}

/// Loads one file twice, held in memory and row by row. Both results must be equal.
fn load_file(name: &str, config: &DataConfig) -> Result<Loaded, Error> {
    let held = load_files(&[name], config);
    let lazy = load_files(&[name], &DataConfig { cache_mb: Some(0), ..config.clone() });
    match (&held, &lazy) {
        (Ok(held), Ok(lazy)) => {
            assert_eq!((&held.images, &held.unlabelled.is_some()), (&lazy.images, &lazy.unlabelled.is_some()), "{name}")
        }
        (Err(_), Err(_)) => {}
        _ => panic!("{name}: {held:?}, {lazy:?}"),
    }
    held
}

fn refused(name: &str, config: &DataConfig) -> String {
    match load_file(name, config) {
        Err(error) => error.to_string(),
        Ok(loaded) => panic!("{name}: {} images", loaded.images.len()),
    }
}

#[track_caller]
fn has_rows(images: &ImageSet, rows: &[u8]) {
    assert_eq!((images.shape(), images.len()), ([1, 3, 4], rows.len()));
    for (i, &row) in rows.iter().enumerate() {
        let pixels: Vec<u8> = (row..row + 12).collect();
        assert_eq!(*images.image(i).unwrap(), pixels, "row {row}");
    }
}

const ALL: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

#[test]
fn every_packing_and_kind_of_page() {
    for packing in ["none", "snappy", "gzip", "brotli", "zstd", "lz4"] {
        for pages in ["1_plain", "1_dictionary", "2_plain", "2_dictionary"] {
            let name = format!("packed_{packing}_{pages}");
            let loaded = load_file(&name, &set()).unwrap_or_else(|error| panic!("{name}: {error}"));
            has_rows(&loaded.images, &ALL);
            assert_eq!((loaded.images.labels(), loaded.unlabelled), (&THIRDS[..], None), "{name}");
        }
    }
}

#[test]
fn every_kind_of_column_of_pictures() {
    for (name, labels) in [("groups", &THIRDS), ("plain_bytes", &THIRDS), ("large_bytes", &[0; 12])] {
        let loaded = load_file(name, &set()).unwrap();
        has_rows(&loaded.images, &ALL);
        assert_eq!(loaded.images.labels(), labels, "{name}");
    }
    let other = DataConfig { image_column: Some("other".to_owned()), ..set() };
    has_rows(&load_file("large_bytes", &other).unwrap().images, &ALL);

    let named = DataConfig { image_column: Some("image".to_owned()), ..set() };
    for (name, config, expected) in [
        ("lists", &set(), "has no column of images (a struct with `bytes`, or plain bytes)"),
        ("paths", &set(), "has no column of images (a struct with `bytes`, or plain bytes)"),
        ("lists", &named, "image.list.element (lists), label"),
        ("paths", &named, "column image holds text, but a picture's file is one byte array in each row"),
    ] {
        let text = refused(name, config);
        assert!(text.contains("0000.parquet") && text.contains(expected), "{name}: {text}");
    }
}

#[test]
fn pictures_that_are_null_are_refused_by_their_row_or_skipped() {
    let skip = DataConfig { on_bad_image: OnBadImage::Skip, ..set() };
    for (name, bad, good) in [
        ("null_pictures", [2, 9], [0, 1, 3, 4, 5, 6, 7, 8, 10, 11]),
        ("null_bytes", [0, 11], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ] {
        let text = refused(name, &set());
        assert!(text.contains(&format!("the image in row {} is a null", bad[0])), "{text}");
        let loaded = load_file(name, &skip).unwrap();
        has_rows(&loaded.images, &good);
        let labels: Vec<u32> = good.iter().map(|&row| THIRDS[row as usize]).collect();
        assert_eq!(loaded.images.labels(), labels);
        let rows: Vec<_> = loaded.bad_images.iter().map(|bad| bad.row).collect();
        assert_eq!(rows, bad.map(Some));
        assert!(loaded.source.description.contains("without 2 bad ones"), "{}", loaded.source.description);
    }
}

#[test]
fn text_truth_values_and_numbers_are_labels() {
    let sorted: Vec<u32> = THIRDS.iter().map(|&third| [2, 0, 1][third as usize]).collect(); // ranks of dog, ant, cat
    let truths: Vec<u32> = THIRDS.iter().map(|&third| u32::from(third == 1)).collect();
    for (name, names, labels) in [
        ("label_text", &["ant", "cat", "dog"][..], &sorted[..]),
        ("label_dictionary", &["ant", "cat", "dog"], &sorted),
        ("label_large_text", &["ant", "cat", "dog"], &sorted),
        ("label_truth", &["False", "True"], &truths),
        ("label_int8", &["0", "1", "2"], &THIRDS),
        ("label_names", &["dog", "ant", "cat"], &THIRDS),
    ] {
        let loaded = load_file(name, &set()).unwrap();
        has_rows(&loaded.images, &ALL);
        assert_eq!(
            (loaded.images.class_names(), loaded.images.labels()),
            (&names.iter().map(|name| name.to_string()).collect::<Vec<_>>()[..], labels),
            "{name}"
        );
        assert_eq!(loaded.unlabelled, None, "{name}");
    }
    let ants = load_file("label_text", &set().with_classes(["ant"])).unwrap();
    has_rows(&ants.images, &[1, 4, 7, 10]);
    assert_eq!(ants.images.labels(), [0; 4]);

    // The class names of several files are merged.
    let both = load_files(&["label_truth", "label_text"], &set()).unwrap().images;
    assert_eq!(both.len(), 24);
    let several = load_files(&["label_text", "label_null_text"], &set().with_classes(["dog"])).unwrap().images;
    assert_eq!((several.len(), several.labels()[0]), (8, 2));
}

#[test]
fn labels_that_cannot_be_used_are_told_and_the_images_are_there() {
    for (name, reason) in [
        ("label_none", "has no column of labels"),
        ("label_two", "has several columns of classes; name one of "),
        ("label_float", "column label is of type DOUBLE, but labels are whole numbers, text or booleans"),
        ("label_list", "has no column of labels"),
        ("label_null", "row 4 has no label"),
        ("label_null_text", "row 4 has no label"),
        ("label_negative", "row 4 has the label -1; expected 0 to"),
        ("label_beyond", "row 3 has the label 3; expected 0 to 2"),
    ] {
        let loaded = load_file(name, &set()).unwrap();
        has_rows(&loaded.images, &ALL);
        assert_eq!(
            (loaded.images.labels(), loaded.images.class_names()),
            (&[0; 12][..], &["images".to_owned()][..]),
            "{name}"
        );
        let told = loaded.unlabelled.unwrap();
        assert!(told.contains("0000.parquet: ") && told.contains(reason), "{name}: {told}");
    }
    // Selected classes are found among others; if the images have no classes, the selection is an error.
    let loaded = load_file("label_negative", &set().with_classes([1, 2])).unwrap();
    has_rows(&loaded.images, &[1, 2, 5, 7, 8, 10, 11]);
    assert_eq!(loaded.unlabelled, None);
    let text = refused("label_float", &set().with_classes([1]));
    assert!(text.contains("`classes` names classes, but the images have none: ") && text.contains("DOUBLE"), "{text}");

    let none = DataConfig { label_column: Some("none".to_owned()), ..set() };
    let loaded = load_file("label_text", &none).unwrap();
    assert_eq!((loaded.images.labels(), loaded.unlabelled.as_deref().is_some()), (&[0; 12][..], true));
    let list = DataConfig { label_column: Some("label.list.element".to_owned()), ..set() };
    let told = load_file("label_list", &list).unwrap().unlabelled.unwrap();
    assert!(told.contains("column label.list.element holds a list in each row, but a label is one value"), "{told}");
    let text = refused("label_none", &DataConfig { label_column: Some("label".to_owned()), ..set() });
    assert!(text.contains("has no column label"), "{text}");
}

#[test]
fn files_without_rows_are_passed_over_unless_all_are() {
    let loaded = load_files(&["empty", "label_text", "empty_untyped", "label_text"], &set()).unwrap();
    assert_eq!((loaded.images.len(), loaded.images.class_names().len()), (24, 3));
    for name in ["empty", "empty_untyped"] {
        assert!(refused(name, &set()).contains("holds no image"));
    }
}

#[test]
fn a_folder_of_parquet_files_is_read_in_the_order_of_their_names() {
    // the names do not indicate splits: all files are read, whatever else is in the folder
    let files = [("b.parquet", "label_text"), ("a.parquet", "label_large_text"), ("metadata.parquet", "paths")];
    for cache_mb in [None, Some(0)] {
        let loaded = load_folder(&files, |config| config.cache_mb = cache_mb).unwrap();
        has_rows(&loaded.images, &[ALL, ALL].concat());
        assert_eq!(loaded.images.class_names(), ["ant", "cat", "dog"]);
        assert_eq!(loaded.images.labels()[..3], [2, 0, 1]);
        assert_eq!(loaded.unlabelled, None);
        assert!(loaded.source.description.starts_with("2 parquet files in "), "{}", loaded.source);
    }
    let files = [("b.parquet", "label_text"), ("a.parquet", "label_null_text")]; // row 4 of the second has no label
    let ants = load_folder(&files, |config| config.classes = Some(vec!["ant".into()])).unwrap();
    has_rows(&ants.images, &[1, 7, 10, 1, 4, 7, 10]);
    let unlabelled = load_folder(&files[..1], |config| config.label_column = Some("none".into())).unwrap();
    assert!(unlabelled.unlabelled.is_some());
    let text = load_folder(&files, |config| config.split = Some("train".into())).unwrap_err().to_string();
    assert!(text.contains("the names of the parquet files contain no split"), "{text}");
    let text = load_folder(&[("a.parquet", "lists")], |_| ()).unwrap_err().to_string();
    assert!(text.contains("a.parquet") && text.contains("has no column of images"), "{text}");
}

/// Splits are found by the files' names, as in a repository of the Hub, or by the folders' names, as in its conversion
/// to parquet.
#[test]
fn splits_of_a_folder_of_parquet_files() {
    for files in [
        [
            ("data/train-00001-of-00002.parquet", "label_null_text"),
            ("data/train-00000-of-00002.parquet", "label_text"),
            ("data/val-00000-of-00001.parquet", "label_truth"),
        ],
        [
            ("default/train/0001.parquet", "label_null_text"),
            ("default/train/0000.parquet", "label_text"),
            ("default/validation/0000.parquet", "label_truth"),
        ],
    ] {
        let ants = load_folder(&files, |config| config.classes = Some(vec!["ant".into()])).unwrap();
        has_rows(&ants.images, &[1, 4, 7, 10, 1, 7, 10]);
        let described = &ants.source.description;
        assert!(described.contains("2 parquet files") && described.contains("split train"), "{described}");
        for split in ["validation", "val"] {
            let loaded = load_folder(&files, |config| config.split = Some(split.into())).unwrap();
            has_rows(&loaded.images, &ALL);
            assert_eq!(loaded.images.class_names(), ["False", "True"]);
        }
        let text = load_folder(&files, |config| config.split = Some("test".into())).unwrap_err().to_string();
        assert!(text.contains("`split` is \"test\", but") && text.contains("train and val"), "{text}");
        let text = load_folder(&files[2..], |_| ()).unwrap_err().to_string();
        assert!(text.contains("`split` is missing") && text.contains("val"), "{text}");
    }
}

#[test]
fn a_parquet_file_is_a_set_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    // A configured file is read, whatever split its name indicates.
    let file = dir.path().join("test-00000-of-00001.PARQUET");
    fs::write(&file, golden("label_text")).unwrap();
    let loaded = load(&folder_of(&file)).unwrap();
    has_rows(&loaded.images, &ALL);
    assert_eq!(loaded.source.description, format!("the parquet file {}", file.display()));
    let split = |name: &str| DataConfig { split: Some(name.into()), ..folder_of(&file) };
    has_rows(&load(&split("test")).unwrap().images, &ALL);
    let text = load(&split("train")).unwrap_err().to_string();
    assert!(text.contains("the splits of the parquet files are test"), "{text}");
}

#[test]
fn pictures_beside_parquet_files_are_what_is_read_and_columns_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.parquet"), golden("label_text")).unwrap();
    fs::write(dir.path().join("a.png"), grey_png(4, 3, 7)).unwrap();
    let loaded = load(&folder_of(dir.path())).unwrap();
    has_rows(&loaded.images, &[7]);
    assert_eq!(loaded.notes, ["a parquet file is ignored, because there are pictures"]);
    let config = DataConfig { image_column: Some("image".to_owned()), ..folder_of(dir.path()) };
    let text = load(&config).unwrap_err().to_string();
    assert!(text.contains("`image_column` names a column, but"), "{text}");
}

/// 100 MB of zeros in 300 bytes, and a million pictures in two thousand bytes.
#[test]
fn a_few_bytes_that_stand_for_millions_are_refused() {
    for (name, expected) in [
        ("bomb_brotli", "bytes claim to decompress to 100000"),
        ("bomb_zstd", "bytes claim to decompress to 100000"),
        ("bomb_dictionary", "claims 1000000 images in 2429 bytes"),
    ] {
        let text = refused(name, &set());
        assert!(text.contains(expected), "{name}: {text}");
    }
}
