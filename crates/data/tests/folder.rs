//! Folders of pictures: classes, order, and errors.

mod common;

use std::{
    fs,
    num::NonZeroUsize,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use common::{folder, folder_of, grey_png};
use image::{DynamicImage, GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use kakusan_data::{
    Class, DataConfig, DatasetName, Inspected, Inspection, Loaded, Loader, OnBadImage, Resolution, inspect, load,
};
use kakusan_rng::Generator;

/// The first pixel of every image. The pictures in these tests count up from different numbers, so it identifies them.
fn firsts(loaded: &Loaded) -> Vec<u8> {
    (0..loaded.images.len()).map(|i| loaded.images.image(i).unwrap()[0]).collect()
}

fn refused(config: &DataConfig) -> String {
    load(config).unwrap_err().to_string()
}

fn png(first: u8) -> Vec<u8> {
    grey_png(4, 4, first)
}

#[test]
fn each_subfolder_is_a_class_in_sorted_order() {
    let (a, b, c, d, e) = (png(1), png(2), png(3), png(4), png(5));
    let dir = folder(&[
        ("dog/b.png", &b),
        ("dog/a.PNG", &a),
        ("cat/deep/er/z.png", &d),
        ("cat/y.png", &c),
        ("Ape/odd name, \u{e9}\u{2603}\n.png", &e),
        ("dog/notes.txt", b"no picture"),
        ("empty/readme.md", b"no class"),
        (".hidden/x.png", &a),
        ("dog/.x.png", b"not looked at"),
    ]);
    let loaded = load(&folder_of(dir.path())).unwrap();
    assert_eq!(loaded.images.class_names(), ["Ape", "cat", "dog"]); // upper case first, as Python sorts
    assert_eq!(loaded.images.labels(), [0, 1, 1, 2, 2]);
    assert_eq!(firsts(&loaded), [5, 3, 4, 1, 2]);
    assert_eq!(loaded.images.shape(), [1, 4, 4]);
    assert!(loaded.source.description.contains("of 3 classes"), "{}", loaded.source.description);

    let some = load(&folder_of(dir.path()).with_classes(["dog"])).unwrap();
    assert_eq!((some.images.labels(), firsts(&some)), (&[2, 2][..], vec![1, 2]));
    let some = load(&folder_of(dir.path()).with_classes([0, 2])).unwrap();
    assert_eq!(firsts(&some), [5, 1, 2]);
    let message = refused(&folder_of(dir.path()).with_classes(["dog", "cow"]));
    assert_eq!(message, "`classes` names \"cow\", but the set holds the classes 0 (Ape), 1 (cat), 2 (dog)");
    assert!(refused(&folder_of(dir.path()).with_classes(["dog"; 2])).contains("\"dog\" twice"));
}

#[test]
fn pictures_beside_each_other_have_no_classes() {
    let (a, b, c) = (png(1), png(2), png(3));
    let dir = folder(&[("flowers/b.png", &b), ("flowers/a.png", &a), ("flowers/more/c.png", &c)]);
    let loaded = load(&folder_of(&dir.path().join("flowers"))).unwrap();
    assert_eq!(loaded.images.class_names(), ["flowers"]);
    assert_eq!((loaded.images.labels(), firsts(&loaded)), (&[0, 0, 0][..], vec![1, 2, 3]));
}

#[test]
fn images_of_one_size_need_no_resolution_and_others_do() {
    let (small, wide) = (png(0), grey_png(6, 4, 0));
    let dir = folder(&[("a.png", &small), ("b.png", &wide)]);
    let message = refused(&folder_of(dir.path()));
    for part in ["several sizes", "a.png has 4 x 4", "b.png has 6 x 4", "set `resolution`"] {
        assert!(message.contains(part), "`{message}` lacks `{part}`");
    }
    let config = DataConfig { resolution: Some(4.into()), channels: Some(3), ..folder_of(dir.path()) };
    assert_eq!(load(&config).unwrap().images.shape(), [3, 4, 4]);
    let dir = folder(&[("b.png", &wide)]);
    assert_eq!(load(&folder_of(dir.path())).unwrap().images.shape(), [1, 4, 6]);
}

/// A PNG whose header claims a size, without any pixel data.
fn claims(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = grey_png(1, 1, 0);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let mut crc = flate2::Crc::new();
    crc.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    bytes
}

/// A picture of the golden file: a JPEG or a WebP that the tests cut short.
fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/images.safetensors");
    let bytes = fs::read(path).unwrap();
    safetensors::SafeTensors::deserialize(&bytes).unwrap().tensor(&format!("file.{name}")).unwrap().data().to_vec()
}

fn cut(name: &str, share: f64) -> Vec<u8> {
    let bytes = golden(name);
    bytes[..(bytes.len() as f64 * share) as usize].to_vec()
}

#[test]
fn a_bad_picture_is_named_or_left_out_and_reported() {
    let good = png(1);
    for (name, bytes, part) in [
        ("bad.png", cut("rgb.png", 0.5), "is damaged"),
        ("bad.jpg", cut("rgb.jpg", 0.7), "the JPEG is cut short"),
        ("bad.jpg", cut("progressive.jpg", 0.4), "the JPEG is cut short"),
        ("bad.jpg", cut("rgb.jpg", 0.02), "is damaged"),
        ("bad.webp", cut("lossy.webp", 0.5), "is damaged"),
        ("bad.gif", cut("animated.gif", 0.1), "is damaged"),
        ("bad.png", Vec::new(), "is not a picture in a known format; expected PNG, JPEG, WebP, GIF, TIFF or BMP"),
        ("bad.jpeg", b"<html>404</html>".to_vec(), "is not a picture"),
        ("bad.png", claims(60_000, 60_000), "claims 60000 x 60000 pixels"),
        ("bad.png", claims(0x7fff_ffff, 0x7fff_ffff), "bad.png"),
        ("bad.png", claims(0, 4), "is damaged"),
        ("bad.png", claims(100_000, 1), "has 100000 x 1 pixels, and would have 6400000 x 64"),
        ("bad.tif", b"II*\0\x08\0\0\0".to_vec(), "is damaged"),
        ("bad.bmp", b"BM".to_vec(), "is damaged"),
        ("bad.tga", b"qoif\0\0\0\0".to_vec(), "is a qoi file; expected PNG"),
    ] {
        let dir = folder(&[("a.png", &good), (name, &bytes), ("z.png", &good)]);
        for cache_mb in [None, Some(0)] {
            let config = DataConfig { resolution: Some(64.into()), cache_mb, ..folder_of(dir.path()) };
            let message = match load(&config) {
                Err(error) => error.to_string(),
                Ok(loaded) => loaded.images.image(1).unwrap_err().to_string(),
            };
            assert!(message.contains(name) && message.contains(part), "{name}: `{message}` lacks `{part}`");
            assert!(message.contains("on_bad_image"), "{message}");
        }

        let skip = DataConfig { resolution: Some(64.into()), on_bad_image: OnBadImage::Skip, ..folder_of(dir.path()) };
        let loaded = load(&skip).unwrap();
        assert_eq!(loaded.images.len(), 2);
        let [bad] = loaded.bad_images.as_slice() else { panic!("{:?}", loaded.bad_images) };
        assert_eq!(bad.path, dir.path().join(name));
        assert!(loaded.source.description.contains("without 1 bad ones"), "{}", loaded.source.description);

        // The set is too large to be held in memory: damage after the header is found when the image is decoded.
        let lazy = load(&DataConfig { cache_mb: Some(0), ..skip }).unwrap();
        let mut bad = lazy.bad_images.clone();
        let mut seen = 0;
        for batch in Loader::new(lazy.images.clone(), NonZeroUsize::new(2).unwrap()).epoch(&mut Generator::new(0)) {
            let batch = batch.unwrap();
            assert_eq!(batch.images.len(), batch.indices.len() * 64 * 64 * lazy.images.channels());
            assert_eq!(batch.labels.len(), batch.indices.len());
            seen += batch.indices.len();
            bad.extend(batch.skipped);
        }
        assert_eq!((seen, bad.len(), &bad[0].path), (2, 1, &dir.path().join(name)));
        assert_eq!(lazy.images.first_pixels_f32(2).unwrap().len(), 2 * 64 * 64 * lazy.images.channels());
        assert!(lazy.images.mean_image().unwrap().iter().all(|x| (0.0..=1.0).contains(x)));
    }
}

#[test]
fn nothing_to_learn_from_is_said() {
    let message = |dir: &Path| refused(&folder_of(dir));
    assert!(
        message(Path::new("no/such/folder")).contains("no/such/folder is not a folder, an archive or a parquet file")
    );
    let dir = folder(&[("a.png", &png(1))]);
    assert!(message(&dir.path().join("a.png")).contains("is not a folder"));
    assert!(message(tempfile::tempdir().unwrap().path()).contains("holds no picture: no file below it ends in .png"));
    let dir = folder(&[("a.txt", b"a"), ("b/c.csv", b"c")]);
    assert!(message(dir.path()).contains("holds no picture"));
    let dir = folder(&[("a.png", b"a"), ("b.png", b"b")]);
    let skip = DataConfig { on_bad_image: OnBadImage::Skip, ..folder_of(dir.path()) };
    assert!(refused(&skip).contains("only images that cannot be decoded, 2 of them"), "{}", refused(&skip));
    // the headers are valid, the data is not
    let dir = folder(&[("a.jpg", &cut("rgb.jpg", 0.7)), ("b.png", &cut("rgb.png", 0.5))]);
    for cache_mb in [None, Some(0)] {
        let skip = DataConfig {
            cache_mb,
            resolution: Some(8.into()),
            on_bad_image: OnBadImage::Skip,
            ..folder_of(dir.path())
        };
        let text = refused(&skip);
        assert!(text.contains("only images that cannot be decoded, 2 of them") && text.contains("a.jpg: "), "{text}");
    }
    let nowhere = DataConfig { dir: None, ..folder_of(dir.path()) };
    let text = refused(&nowhere);
    assert!(text.contains("no folder was named") && text.contains("Name a folder of pictures as `dir`"), "{text}");
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_not_in_circles() {
    use std::os::unix::fs::symlink;
    let elsewhere = folder(&[("x/b.png", &png(2))]);
    let dir = folder(&[("cat/a.png", &png(1))]);
    symlink(elsewhere.path().join("x"), dir.path().join("dog")).unwrap();
    symlink(elsewhere.path().join("x/b.png"), dir.path().join("cat/b.png")).unwrap();
    symlink("nowhere.txt", dir.path().join("cat/dangling.txt")).unwrap();
    let loaded = load(&folder_of(dir.path())).unwrap();
    assert_eq!((loaded.images.class_names(), firsts(&loaded)), (&["cat", "dog"].map(String::from)[..], vec![1, 2, 2]));

    symlink("nowhere.png", dir.path().join("cat/dangling.png")).unwrap();
    let text = refused(&folder_of(dir.path()));
    assert!(text.contains("dangling.png: cannot be read"), "{text}");
    fs::remove_file(dir.path().join("cat/dangling.png")).unwrap();

    let circles: [PathBuf; 3] = ["cat", ".", "cat/../cat"].map(|target| dir.path().join(target));
    for target in circles {
        symlink(target, dir.path().join("cat/again")).unwrap();
        let text = refused(&folder_of(dir.path()));
        assert!(text.contains("again") && text.contains("is a link to"), "{text}");
        fs::remove_file(dir.path().join("cat/again")).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn names_that_are_no_text_are_read_too() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let dir = folder(&[]);
    fs::write(dir.path().join(OsStr::from_bytes(b"\xff\xfe.png")), png(9)).unwrap();
    assert_eq!(firsts(&load(&folder_of(dir.path())).unwrap()), [9]);
}

/// A picture that is deleted or changes its size after the set was loaded and before it is decoded.
#[test]
fn pictures_that_change_under_the_loader_are_named() {
    let dir = folder(&[("a.png", &png(1))]);
    let config = DataConfig { cache_mb: Some(0), ..folder_of(dir.path()) };
    let images = load(&config).unwrap().images;
    fs::write(dir.path().join("a.png"), grey_png(2, 2, 0)).unwrap();
    let one = NonZeroUsize::MIN;
    let mut epoch = Loader::new(images.clone(), one).epoch(&mut Generator::new(0));
    let text = epoch.next().unwrap().unwrap_err().to_string();
    assert!(text.contains("a.png") && text.contains("has changed: it has 2 x 2 pixels now"), "{text}");
    fs::remove_file(dir.path().join("a.png")).unwrap();
    assert!(images.image(0).unwrap_err().to_string().contains("a.png: cannot be read"));
}

/// Why a class-conditional model cannot be trained on a folder; empty if it can.
fn unlabelled(config: &DataConfig) -> String {
    load(config).unwrap().unlabelled.unwrap_or_default()
}

fn counts(loaded: &Loaded) -> Vec<(String, usize)> {
    let counts = loaded.images.class_names().iter().cloned().zip(loaded.images.class_counts());
    counts.filter(|(_, count)| *count > 0).collect()
}

fn classes(pairs: &[(&str, usize)]) -> Vec<(String, usize)> {
    pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[test]
fn pictures_of_no_class_are_named() {
    let a = png(1);
    let dir = folder(&[("cat/a.png", &a), ("cat/sub/b.png", &a), ("dog/a.png", &a), ("sheet.png", &a)]);
    let config = folder_of(dir.path());
    let loaded = load(&config).unwrap();
    assert_eq!((loaded.images.len(), loaded.images.class_names().len()), (4, 1));
    let text = unlabelled(&config);
    for part in ["sheet.png next to the folders cat and dog has no class", "move it", "data.classes"] {
        assert!(text.contains(part), "`{text}` lacks `{part}`");
    }
    // no reason if the classes are configured
    let named = load(&folder_of(dir.path()).with_classes(["cat", "dog"])).unwrap();
    assert_eq!((counts(&named), &named.unlabelled), (classes(&[("cat", 2), ("dog", 1)]), &None));
    assert!(
        named.notes.iter().any(|note| note.contains("ignored 1 picture next to the class folders, such as sheet.png"))
    );
    fs::remove_file(dir.path().join("sheet.png")).unwrap();
    let loaded = load(&config).unwrap();
    assert_eq!((counts(&loaded), loaded.unlabelled, loaded.notes), (classes(&[("cat", 2), ("dog", 1)]), None, vec![]));

    // none of these is a class or a picture
    for stray in [".x.png", ".cache/x.png", "__MACOSX/cat/x.png", "notes.txt"] {
        let dir = folder(&[("cat/a.png", &a), ("dog/a.png", &a), (stray, &a)]);
        let loaded = load(&folder_of(dir.path())).unwrap();
        assert_eq!((counts(&loaded), loaded.unlabelled), (classes(&[("cat", 1), ("dog", 1)]), None), "{stray}");
    }
    let dir = folder(&[("cat/a.png", &a), ("dog/a.png", &a), ("bird/readme.txt", b"")]);
    let loaded = load(&folder_of(dir.path())).unwrap();
    assert_eq!(counts(&loaded), classes(&[("cat", 1), ("dog", 1)]));
    assert_eq!(loaded.notes, ["folders without pictures are not classes: bird"]);

    let dir = folder(&[("a.png", &a), ("b.png", &a), ("metadata.csv", b"file_name,label\n")]);
    assert!(unlabelled(&folder_of(dir.path())).contains("are not in class folders (metadata.csv is not read)"));
    let notes = load(&folder_of(dir.path())).unwrap().notes;
    assert_eq!(notes, ["metadata.csv is not read: folders are the classes"]);
    let dir = folder(&[("cat/a.png", &a)]);
    assert!(unlabelled(&folder_of(dir.path())).contains("of one class, `cat`, the only folder"));
    assert_eq!(unlabelled(&folder_of(dir.path()).with_classes(["cat"])), "");
}

#[test]
fn a_folder_around_the_classes_is_no_class() {
    let a = png(1);
    let dir = folder(&[("set/pictures/cat/a.png", &a), ("set/pictures/dog/a.png", &a), ("set/readme.txt", b"")]);
    let loaded = load(&folder_of(dir.path())).unwrap();
    assert_eq!(counts(&loaded), classes(&[("cat", 1), ("dog", 1)]));
}

#[test]
fn splits_are_no_classes() {
    let (a, b) = (png(1), png(2));
    for (train, other) in [
        ("train", "val"),
        ("train", "test"),
        ("training", "testing"),
        ("Train", "validation"),
        ("train2017", "val2017"),
        ("my-train", "my-dev"),
        ("set_train.1", "eval"),
        ("train", "evaluation"),
        ("data/train", "data/valid"),
    ] {
        let file = |split: &str, name: &str| format!("{split}/{name}");
        let files = [
            file(train, "cat/a.png"),
            file(train, "dog/a.png"),
            file(train, "dog/b.png"),
            file(other, "cat/a.png"),
            file(other, "dog/a.png"),
            file(other, "fox/a.png"),
        ];
        let files: Vec<(&str, &[u8])> = files.iter().map(|name| (name.as_str(), &a[..])).collect();
        let dir = folder(&files);
        let config = folder_of(dir.path());
        let loaded = load(&config).unwrap();
        assert_eq!(counts(&loaded), classes(&[("cat", 1), ("dog", 2)]), "{train}, {other}");
        let (train, other) = (train.trim_start_matches("data/"), other.trim_start_matches("data/"));
        assert!(
            loaded.source.description.contains(&format!("split train, in {train}/")),
            "{}",
            loaded.source.description
        );
        let said = format!("the split train is used, from {train}, without {other} (3 pictures)");
        assert_eq!(loaded.notes, [said]);
        let asked = load(&DataConfig { split: Some(other.into()), ..config.clone() }).unwrap();
        assert_eq!(counts(&asked), classes(&[("cat", 1), ("dog", 1), ("fox", 1)]));
        let message = refused(&DataConfig { split: Some("holdout".into()), ..config });
        assert!(message.contains("`split` is \"holdout\", but the splits in ") && message.contains(other), "{message}");
    }
    // any spelling of a split, several folders of one split, and files and folders outside the splits
    let dir = folder(&[
        ("train_1/cat/a.png", &a),
        ("train_2/cat/b.png", &a),
        ("train_2/dog/b.png", &a),
        ("dev/cat/b.png", &b),
        ("extra/cat/c.png", &b),
        ("cover.png", &b),
    ]);
    let loaded = load(&folder_of(dir.path())).unwrap();
    assert_eq!(counts(&loaded), classes(&[("cat", 2), ("dog", 1)]));
    assert!(
        loaded.notes[0].contains("from train_1 and train_2, without dev (1 picture) and extra (1 picture)"),
        "{:?}",
        loaded.notes
    );
    assert!(loaded.notes[1].contains("ignored 1 picture next to the split folders, such as cover.png"));
    for (split, expected) in [("validation", 1), ("val", 1), ("extra", 1), ("train_2", 2), ("train", 3)] {
        let config = DataConfig { split: Some(split.into()), ..folder_of(dir.path()) };
        assert_eq!(load(&config).unwrap().images.len(), expected, "{split}");
    }
    let message = refused(&DataConfig { split: Some("test".into()), ..folder_of(dir.path()) });
    assert!(message.contains("dev (validation), extra, train_1 (train) and train_2 (train)"), "{message}");

    let dir = folder(&[("test/cat/a.png", &a), ("val/cat/a.png", &a)]);
    let message = refused(&folder_of(dir.path()));
    assert!(message.contains("has no training split: name one of test and val (validation)"), "{message}");

    // a single folder named as a split, among other folders, is a class: a train next to a bus
    let dir = folder(&[("bus/a.png", &a), ("train/a.png", &a)]);
    let loaded = load(&folder_of(dir.path())).unwrap();
    assert_eq!(counts(&loaded), classes(&[("bus", 1), ("train", 1)]));
    assert!(loaded.notes[0].starts_with("train counts as a class"), "{:?}", loaded.notes);
    let message = refused(&DataConfig { split: Some("val".into()), ..folder_of(dir.path()) });
    assert!(message.contains("has no folders for splits"), "{message}");

    // splits within the classes
    let dir = folder(&[
        ("cat/train/a.png", &a),
        ("cat/test/b.png", &a),
        ("dog/train/a.png", &a),
        ("dog/train/b.png", &a),
        ("dog/test/a.png", &a),
    ]);
    let loaded = load(&folder_of(dir.path())).unwrap();
    assert_eq!(counts(&loaded), classes(&[("cat", 1), ("dog", 2)]));
    assert!(loaded.source.description.contains("split train, in train"), "{}", loaded.source.description);
    let test = load(&DataConfig { split: Some("test".into()), ..folder_of(dir.path()) }).unwrap();
    assert_eq!(counts(&test), classes(&[("cat", 1), ("dog", 1)]));
}

#[test]
fn a_number_means_the_folder_of_that_name() {
    let files: Vec<(String, Vec<u8>)> = (0..12).map(|i| (format!("{i}/a.png"), png(i))).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    let dir = folder(&files);
    for i in 0..12u32 {
        let loaded = load(&folder_of(dir.path()).with_classes([i])).unwrap();
        assert_eq!((firsts(&loaded), counts(&loaded)), (vec![i as u8], classes(&[(&i.to_string(), 1)])));
        // the labels are those of torchvision and datasets: the index among the sorted names
        let names = loaded.images.class_names();
        assert_eq!(names[loaded.images.label(0) as usize], i.to_string());
        assert!(names.is_sorted());
    }
    let message = refused(&folder_of(dir.path()).with_classes([12]));
    assert_eq!(message, "`classes` names 12, but the set holds the classes 0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9");
    let message = refused(&folder_of(dir.path()).with_classes([10.into(), Class::from("10")]));
    assert!(message.contains("\"10\" twice"), "{message}");

    let dir = folder(&[("01/a.png", &png(1)), ("02/a.png", &png(2)), ("10/a.png", &png(10))]);
    for (class, expected) in [(1, Some(1)), (2, Some(2)), (10, Some(10)), (0, None)] {
        match (load(&folder_of(dir.path()).with_classes([class])), expected) {
            (Ok(loaded), Some(expected)) => assert_eq!(firsts(&loaded), [expected]),
            (Err(error), None) => assert!(error.to_string().contains("holds the classes 01, 02, 10"), "{error}"),
            other => panic!("{class}: {other:?}"),
        }
    }
    // if some names are not numbers, a number is an index, unless it is a name
    let dir = folder(&[("1/a.png", &png(1)), ("cat/a.png", &png(2)), ("dog/a.png", &png(3))]);
    for (class, expected) in [(1, 1), (2, 3)] {
        assert_eq!(firsts(&load(&folder_of(dir.path()).with_classes([class])).unwrap()), [expected]);
    }
}

fn look(dir: &Path) -> Inspection {
    let config = DataConfig { dir: Some(dir.to_owned()), ..DataConfig::new(DatasetName::Folder) };
    inspect(&config, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

/// Two classes, with files of all kinds.
fn two_classes() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for class in ["cat", "dog"] {
        std::fs::create_dir(dir.path().join(class)).unwrap();
    }
    let save = |name: &str, image: DynamicImage| image.save(dir.path().join(name)).unwrap();
    save("cat/a.png", GrayImage::from_pixel(4, 6, Luma([51])).into());
    save("cat/b.png", RgbImage::from_pixel(4, 6, Rgb([51, 51, 51])).into()); // the same pixels
    save("dog/c.png", RgbaImage::from_pixel(2, 2, Rgba([255, 0, 0, 0])).into()); // white on white
    save("dog/d.bmp", RgbImage::from_fn(2, 1, |x, _| Rgb([255 * x as u8, 0, 0])).into());
    std::fs::write(dir.path().join("dog/e.jpg"), b"no picture").unwrap();
    std::fs::write(dir.path().join("dog/f.png"), &std::fs::read(dir.path().join("cat/a.png")).unwrap()[..40]).unwrap();
    dir
}

#[test]
fn every_image_is_looked_at_and_every_bad_one_named() {
    let dir = two_classes();
    let set = look(dir.path());
    assert_eq!(
        (set.total, set.class_names.clone(), set.class_counts()),
        (6, vec!["cat".into(), "dog".into()], vec![2, 2])
    );
    let modes: Vec<String> = set.images.iter().map(|image| image.mode.to_string()).collect();
    assert_eq!(modes, ["grey", "RGB", "RGB with alpha", "RGB"]);
    let flags = |is: fn(&Inspected) -> bool| set.images.iter().map(is).collect::<Vec<_>>();
    assert_eq!(flags(|image| image.is_grey), [true, true, true, false]);
    assert_eq!(flags(|image| image.is_transparent), [false, false, true, false]);
    let sizes: Vec<_> = set.images.iter().map(|image| (image.width, image.height)).collect();
    assert_eq!(sizes, [(4, 6), (4, 6), (2, 2), (2, 1)]);
    let bad: Vec<String> = set.bad.iter().map(ToString::to_string).collect();
    assert!(
        bad.len() == 2 && bad[0].contains("e.jpg: is not a picture") && bad[1].contains("f.png: is damaged"),
        "{bad:?}"
    );
    assert_eq!(set.duplicates(), [[0, 1]]);
    assert!(set.name(3).ends_with("d.bmp"));
}

/// The reds are 0.2, 0.2, 1, and 0 and 1 in one image; the greens and blues 0.2, 0.2, 1 and 0.
#[test]
fn each_image_counts_alike_in_the_mean() {
    let dir = two_classes();
    let set = look(dir.path());
    let [red, green, blue] = set.mean_and_std()[..] else { panic!("three channels") };
    let near = |a: (f64, f64), b: (f64, f64)| (a.0 - b.0).abs() < 1e-12 && (a.1 - b.1).abs() < 1e-12;
    assert!(near(red, (0.475, (0.395f64 - 0.475 * 0.475).sqrt())), "{red:?}");
    assert!(near(green, (0.35, (0.27f64 - 0.35 * 0.35).sqrt())) && near(blue, green), "{green:?}");
    assert_eq!(set.black_or_white(), (0.0 + 0.0 + 1.0 + 0.5) / 4.0);
}

#[test]
fn thumbnails_are_what_a_training_sees() {
    let dir = two_classes();
    std::fs::remove_file(dir.path().join("dog/e.jpg")).unwrap();
    std::fs::remove_file(dir.path().join("dog/f.png")).unwrap();
    let (set, resolution) = (look(dir.path()), Some(Resolution::Shorter(3)));
    let config = DataConfig { dir: Some(dir.path().to_owned()), resolution, ..DataConfig::new(DatasetName::Folder) };
    let loaded = load(&DataConfig { center_crop: true, channels: Some(3), ..config }).unwrap().images;
    for i in 0..4 {
        assert_eq!(set.thumbnail(i, 3).unwrap(), loaded.pixels_f32(&[i]).unwrap(), "{i}");
    }
}

#[test]
fn an_inspection_can_be_stopped_and_splits_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..70u8 {
        let folder = dir.path().join(if i < 66 { "train" } else { "val" });
        std::fs::create_dir_all(&folder).unwrap();
        GrayImage::from_pixel(1, 1, Luma([i])).save(folder.join(format!("{i}.png"))).unwrap();
    }
    let set = look(dir.path());
    assert_eq!(set.splits, [("train".to_owned(), Some(66)), ("validation".to_owned(), Some(4))]);
    assert_eq!((set.images.len(), set.total), (66, 66));
    let config = DataConfig { dir: Some(dir.path().to_owned()), ..DataConfig::new(DatasetName::Folder) };
    let mut calls = vec![];
    let stopped = inspect(&config, &mut |done, total| {
        calls.push((done, total));
        if done > 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((stopped.unwrap().images.len(), calls), (64, vec![(0, 66), (64, 66)]));
}
