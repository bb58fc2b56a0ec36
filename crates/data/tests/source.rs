//! Which source is used, and what a configuration may contain.

use std::path::Path;

use kakusan_data::{DataConfig, DatasetName, Error, ImageSet, OnBadImage, SourceKind, Validation, load, load_with_hub};
use kakusan_hub::{Hub, HubConfig};

/// A Hub that is never reachable.
fn no_hub() -> Hub {
    let mut config = HubConfig::new("http://127.0.0.1:9", "no/such/cache");
    config.offline = true;
    Hub::new(config)
}

fn mnist(sources: &[SourceKind]) -> DataConfig {
    DataConfig { sources: sources.to_vec(), drawn_per_class: 5, ..DataConfig::new(DatasetName::Mnist) }
}

#[test]
fn the_first_source_that_answers_and_why_the_others_did_not() {
    let config = DataConfig { drawn_seed: 3, ..mnist(&[SourceKind::Dir, SourceKind::Hub, SourceKind::Drawn]) };
    let config = config.with_classes([8, 1]);
    let loaded = load_with_hub(&config, &no_hub()).unwrap();
    assert_eq!(loaded.images.class_counts(), [0, 5, 0, 0, 0, 0, 0, 0, 5, 0]);
    assert_eq!(loaded.source.kind, Some(SourceKind::Drawn));
    assert_eq!(loaded.source.description, "digits drawn by Kakusan's own code, 5 of each, seed 3");
    let skipped: Vec<SourceKind> = loaded.skipped.iter().map(|skipped| skipped.source).collect();
    assert_eq!(skipped, [SourceKind::Dir, SourceKind::Hub]);
    assert_eq!(loaded.skipped[0].reason, "no folder was named");
    assert!(loaded.skipped[1].reason.contains("is not in the cache"), "{}", loaded.skipped[1].reason);
    // The result is the same without configured sources, and without a Hub.
    let config = DataConfig { sources: vec![], ..config };
    assert_eq!(load_with_hub(&config, &no_hub()).unwrap().images, loaded.images);
    let without = load(&config).unwrap();
    assert_eq!(without.images, loaded.images);
    assert_eq!(without.skipped[1].reason, "the program does not use the Hub");
}

#[test]
fn all_classes_unless_some_are_named() {
    let loaded = load(&mnist(&[SourceKind::Drawn])).unwrap();
    assert_eq!(loaded.images.class_counts(), [5; 10]);
}

#[test]
fn a_named_folder_that_is_bad_is_never_hidden() {
    let config = DataConfig { dir: Some("no/such/folder".into()), ..mnist(&[]) };
    assert!(matches!(load(&config), Err(Error::NotAFolder { path }) if path == Path::new("no/such/folder")));
}

#[test]
fn no_source_at_all_says_why_and_what_to_do() {
    let config = DataConfig::new(DatasetName::FashionMnist);
    let message = load_with_hub(&config, &no_hub()).unwrap_err().to_string();
    for part in ["fashion_mnist", "\n  dir: no folder was named", "\n  hub: ", "is not in the cache", "as `dir`"] {
        assert!(message.contains(part), "`{message}` lacks `{part}`");
    }
    assert!(!message.contains("drawn"), "{message}");
    let message = load_with_hub(&mnist(&[SourceKind::Hub]), &no_hub()).unwrap_err().to_string();
    assert!(message.contains("add \"drawn\" to `sources`"), "{message}");
}

#[test]
fn the_tutorials_table() {
    let config: DataConfig =
        toml::from_str("name = \"mnist\"\nclasses = [1, 8, 4]\nsources = [\"dir\", \"hub\", \"drawn\"]").unwrap();
    let expected = DataConfig {
        sources: vec![SourceKind::Dir, SourceKind::Hub, SourceKind::Drawn],
        ..DataConfig::new(DatasetName::Mnist).with_classes([1, 8, 4])
    };
    assert_eq!(config, expected);
    assert_eq!(
        toml::from_str::<DataConfig>("name = \"fashion_mnist\"").unwrap(),
        DataConfig::new(DatasetName::FashionMnist)
    );
    let every_key = DataConfig {
        dir: Some("x".into()),
        resolution: Some([64, 48].into()),
        center_crop: true,
        random_flip: true,
        channels: Some(3),
        background: Some([1, 2, 3]),
        on_bad_image: OnBadImage::Skip,
        cache_mb: Some(9),
        prefetch: Some(5),
        num_workers: Some(2),
        ..DataConfig::new(DatasetName::Folder).with_classes(["cat"])
    };
    let of_the_hub = DataConfig {
        repo: Some("owner/name".into()),
        config_name: Some("default".into()),
        split: Some("train".into()),
        image_column: Some("image".into()),
        label_column: Some("label".into()),
        ..DataConfig::new(DatasetName::Hub)
    };
    for config in [expected, every_key, of_the_hub, DataConfig { dir: Some("x".into()), drawn_seed: 9, ..mnist(&[]) }] {
        assert_eq!(toml::from_str::<DataConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
    }
}

#[test]
fn tables_that_are_refused_on_reading() {
    for (table, part) in [
        ("classes = [1]", "missing field `name`"),
        ("name = \"mnst\"", "unknown variant `mnst`"),
        ("name = \"mnist\"\nclass = [1]", "unknown field `class`"),
        ("name = \"mnist\"\nclasses = [-1]", "invalid value"),
        ("name = \"mnist\"\nclasses = [4294967296]", "invalid value"),
        ("name = \"mnist\"\nclasses = [1.5]", "invalid type"),
        ("name = \"mnist\"\nclasses = 1", "invalid type"),
        ("name = \"mnist\"\nsources = [\"web\"]", "unknown variant `web`"),
        ("name = \"mnist\"\ndrawn_per_class = -3", "invalid value"),
        ("name = \"mnist\"\nresolution = -3", "one side of a square, or [height, width]"),
        ("name = \"mnist\"\nresolution = [3]", "one side of a square, or [height, width]"),
        ("name = \"mnist\"\nresolution = [3, 4, 5]", "one side of a square, or [height, width]"),
    ] {
        let message = toml::from_str::<DataConfig>(table).unwrap_err().to_string();
        assert!(message.contains(part), "`{message}` lacks `{part}`");
    }
}

#[test]
fn tables_that_are_refused_on_checking() {
    let fashion = DataConfig::new(DatasetName::FashionMnist);
    let pictures = DataConfig { dir: Some("x".into()), ..DataConfig::new(DatasetName::Folder) };
    for (config, part) in [
        (mnist(&[]).with_classes([1, 10]), "`classes` names 10, but the set holds the classes 0, 1, 2"),
        (mnist(&[]).with_classes([0u32; 0]), "`classes` is empty"),
        (fashion.clone().with_classes([10]), "8 (Bag), 9 (Ankle boot)"),
        (mnist(&[]).with_classes([1, 2, 1]), "`classes` names 1 twice"),
        (mnist(&[SourceKind::Hub, SourceKind::Hub]), "`sources` names \"hub\" twice"),
        (DataConfig { sources: vec![SourceKind::Drawn], ..fashion }, "only digits can be drawn"),
        (DataConfig { dir: Some("x".into()), ..mnist(&[SourceKind::Drawn]) }, "`sources` lacks \"dir\""),
        (DataConfig { drawn_per_class: 0, ..mnist(&[]) }, "`drawn_per_class` is 0"),
        (mnist(&[]).with_classes(["seven"]), "`classes` names \"seven\", but the set holds the classes 0, 1, 2"),
        (DataConfig { resolution: Some(0.into()), ..mnist(&[]) }, "`resolution` is 0; it must be from 1 to 8192"),
        (DataConfig { resolution: Some([0, 8].into()), ..mnist(&[]) }, "`resolution` is 0; it must be from 1 to 8192"),
        (DataConfig { resolution: Some([8, 9000].into()), ..mnist(&[]) }, "`resolution` is 9000; it must be from 1"),
        (DataConfig { channels: Some(4), ..mnist(&[]) }, "`channels` is 4; it must be 1 (grey) or 3 (RGB)"),
        (DataConfig { prefetch: Some(0), ..mnist(&[]) }, "`prefetch` is 0"),
        (DataConfig { num_workers: Some(0), ..mnist(&[]) }, "`num_workers` is 0"),
        (
            DataConfig { split: Some("val".into()), ..mnist(&[]) },
            "`split` is \"val\", but mnist has the splits train and test",
        ),
        (DataConfig { background: Some([0; 3]), ..mnist(&[]) }, "`background` is for sets of pictures"),
        (DataConfig { sources: vec![SourceKind::Hub], ..pictures.clone() }, "folder comes only from \"dir\""),
        (DataConfig { center_crop: true, ..pictures.clone() }, "`center_crop` has no effect without `resolution`"),
        (DataConfig::new(DatasetName::Hub), "`repo` is missing; name the data set"),
        (DataConfig { repo: Some("a/b".into()), ..pictures }, "`repo` is for the set \"hub\""),
        (
            DataConfig { repo: Some("a/b".into()), dir: Some("x".into()), ..DataConfig::new(DatasetName::Hub) },
            "never read from a folder; name the set \"folder\"",
        ),
        (DataConfig { drawn_per_class: 60_001, ..mnist(&[]) }, "from 1 to 60000"),
    ] {
        let message = config.check().unwrap_err().to_string();
        assert!(message.contains(part), "`{message}` lacks `{part}`");
        assert_eq!(load(&config).unwrap_err().to_string(), message);
    }
    assert!(mnist(&[]).with_classes(0..10).check().is_ok());
}

#[test]
fn a_share_is_held_out_and_a_split_is_another_set() {
    let config = DataConfig { drawn_per_class: 20, ..DataConfig::new(DatasetName::Mnist).with_classes([1, 8]) };
    let with = |validation| load(&DataConfig { validation: Some(validation), ..config.clone() });
    let all = load(&config).unwrap().images;
    let loaded = with(Validation::Share(0.1)).unwrap();
    let (train, held_out) = (loaded.images, loaded.validation.unwrap());
    assert_eq!((train.len(), held_out.len()), (36, 4));
    let pixels = |set: &ImageSet| -> Vec<Vec<u8>> { (0..set.len()).map(|i| set.image(i).unwrap().into()).collect() };
    let mut both = [pixels(&train), pixels(&held_out)].concat();
    let mut expected = pixels(&all);
    both.sort();
    expected.sort();
    assert_eq!(both, expected, "each image is in one of the two");
    assert_eq!(held_out, with(Validation::Share(0.1)).unwrap().validation.unwrap());

    let loaded = with(Validation::Split("test".into())).unwrap();
    assert_eq!(loaded.images, all);
    let test = loaded.validation.unwrap();
    assert_eq!(test.class_counts(), all.class_counts());
    assert!(pixels(&test).iter().all(|image| !expected.contains(image)));

    for (validation, said) in [
        (Validation::Share(1.0), "`validation` is 1; a share of the images is above 0 and below 1"),
        (Validation::Share(f64::NAN), "`validation` is NaN; a share"),
        (Validation::Share(0.999), "`validation` is 0.999, which of 40 images leaves none to train on"),
        (Validation::Split("train".into()), "`validation` is \"train\", the split to train on"),
        (Validation::Split("val".into()), "`validation` is \"val\", but mnist has the splits train and test"),
    ] {
        let error = with(validation).unwrap_err().to_string();
        assert!(error.starts_with(said), "{error}");
    }
}
