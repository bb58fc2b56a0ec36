//! Pictures in archives: classes and splits as in a folder, and the archives that are refused.

mod common;

use std::{
    fs,
    io::{Cursor, Write},
};

use common::{folder_of, grey_png, gzip};
use kakusan_data::{DataConfig, load};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

type Files<'a> = &'a [(&'a str, &'a [u8])];

fn zip(files: Files, method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn tar(files: Files) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The error message for an archive of these bytes; empty if it is accepted.
fn refusal(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set");
    fs::write(&path, bytes).unwrap();
    load(&folder_of(&path)).err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn an_archive_is_read_as_its_folder_is() {
    let pictures: Vec<Vec<u8>> = (0..5).map(|i| grey_png(4, 4, i)).collect();
    let long = format!("set/train/dog/{}.png", "long ".repeat(30)); // longer than the 100 bytes of a tar's header
    let files: Vec<(&str, &[u8])> = vec![
        ("set/train/dog/b.png", &pictures[0]),
        ("set/train/cat/deep/a.png", &pictures[1]),
        (&long, &pictures[2]),
        ("set/val/cat/a.png", &pictures[3]),
        ("__MACOSX/set/train/cat/._a.png", b"no picture"),
        ("set/train/cat/.hidden.png", b"no picture"),
        ("set/readme.txt", b"no picture"),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in &files {
        let path = dir.path().join("unpacked").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let unpacked = load(&folder_of(&dir.path().join("unpacked"))).unwrap();
    assert_eq!((unpacked.images.len(), unpacked.images.class_names().len()), (3, 2));
    for (name, bytes) in [
        ("a.zip", zip(&files, CompressionMethod::Deflated)),
        ("stored.zip", zip(&files, CompressionMethod::Stored)),
        ("a.tar", tar(&files)),
        ("a.tar.gz", gzip(&tar(&files))),
        ("no ending", gzip(&tar(&files))),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        for cache_mb in [None, Some(0)] {
            let loaded = load(&DataConfig { cache_mb, ..folder_of(&path) }).unwrap();
            assert_eq!(
                (loaded.images.labels(), loaded.images.class_names()),
                (unpacked.images.labels(), unpacked.images.class_names())
            );
            assert_eq!(loaded.notes, unpacked.notes);
            for i in 0..3 {
                assert_eq!(loaded.images.image(i).unwrap(), unpacked.images.image(i).unwrap(), "{name}");
            }
        }
        let val = load(&DataConfig { split: Some("val".into()), ..folder_of(&path) }).unwrap();
        assert_eq!(val.images.image(0).unwrap()[0], 3);
    }
}

#[test]
fn what_leads_out_or_is_no_file_is_refused() {
    let png = grey_png(4, 4, 0);
    let text = refusal(&zip(&[("../a.png", &png)], CompressionMethod::Stored));
    assert!(text.contains("\"../a.png\", which leads out of the archive"), "{text}");
    let text = refusal(&zip(&[("a/../../b.png", &png)], CompressionMethod::Stored));
    assert!(text.contains("leads out"), "{text}");

    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.add_symlink("a.png", "/etc/passwd", SimpleFileOptions::default()).unwrap();
    assert!(refusal(&writer.finish().unwrap().into_inner()).contains("\"a.png\", which is a link"));

    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "a.png", "/etc/passwd").unwrap();
    assert!(refusal(&builder.into_inner().unwrap()).contains("\"a.png\", which is a link"));

    // a member's header is not trusted
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let text = refusal(&gzip(header.as_bytes()));
    assert!(text.contains("has a header of 1099511627776 bytes; at most 65536 are read"), "{text}");
    let text = refusal(&tar(&[("a.png", &png)])[..700]);
    assert!(text.contains("set"), "{text}");
    let whole = zip(&[("a.png", &png), ("b.png", &png)], CompressionMethod::Deflated);
    for at in (0..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        refusal(&damaged); // an error or a picture, but never a panic
        refusal(&whole[..at]);
    }
    assert!(refusal(&zip(&[("a.txt", b"")], CompressionMethod::Stored)).contains("holds no picture"));
    assert!(refusal(&zip(&[("a.parquet", b"")], CompressionMethod::Stored)).contains("unpack it into a folder"));
}

/// A member is decompressed only up to the size in its header, and that size may not exceed the limit for a picture's
/// file.
#[test]
fn a_bomb_is_refused_before_it_is_unpacked() {
    const SIZE: usize = (1 << 28) + 1;
    let bomb = zip(&[("a.png", &vec![0; SIZE])], CompressionMethod::Deflated);
    assert!(bomb.len() < SIZE / 500);
    let text = refusal(&bomb);
    assert!(text.contains(&format!("has {SIZE} bytes; a picture may have at most {}", SIZE - 1)), "{text}");

    // a header that claims a smaller size: only this much is read, which is not a picture
    let mut lying = bomb;
    let size = (SIZE as u32).to_le_bytes();
    let places: Vec<usize> = (0..lying.len() - 4).filter(|&at| lying[at..at + 4] == size).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|&at| lying[at..at + 4].copy_from_slice(&4096u32.to_le_bytes()));
    let text = refusal(&lying);
    assert!(text.contains("a.png") && !text.contains(&SIZE.to_string()), "{text}");

    // the members of a tar.gz are held in memory, so the size of each is limited
    let mut header = tar::Header::new_gnu();
    header.set_path("a.png").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    let text = refusal(&gzip(&[header.as_bytes().as_slice(), &[0; 4096]].concat()));
    assert!(text.contains("too much to hold in memory"), "{text}");
}
