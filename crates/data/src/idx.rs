//! IDX, the format of MNIST's files: a magic number, the sizes, the bytes. Files may be gzipped.
//!
//! A header is not trusted, so no memory is allocated by its sizes alone. A plain file's length is compared with the
//! header first. A gzipped file is read up to the size that the header claims, into a buffer that grows with the data.

use std::{
    fs::File,
    io::{BufReader, ErrorKind, Read},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;

use crate::{DatasetName, Error, ImageSet};

/// The side of an image, in every set that is read here.
const SIDE: u32 = 28;
/// The most images of a set.
const MAX_COUNT: u32 = 1_000_000;
const IMAGES_MAGIC: u32 = 0x0803; // bytes, three dimensions
const LABELS_MAGIC: u32 = 0x0801; // bytes, one dimension

/// The two files of a set.
pub(crate) struct Files {
    pub(crate) images: PathBuf,
    pub(crate) labels: PathBuf,
}

/// The expected content of a file.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Images,
    Labels,
}

/// Finds the training set, or the test set, in a folder, or below it in torchvision's layout.
pub(crate) fn find(dir: &Path, name: DatasetName, test: bool) -> Result<Files, Error> {
    match std::fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => {}
        Err(source) if source.kind() != ErrorKind::NotFound => return Err(Error::Io { path: dir.to_owned(), source }),
        _ => return Err(Error::NotAFolder { path: dir.to_owned() }),
    }
    let raw = match name {
        DatasetName::Mnist => "MNIST/raw/",
        _ => "FashionMNIST/raw/",
    };
    let set = if test { "t10k" } else { "train" };
    let names = |kind: &str| ["-", "."].map(|between| format!("{set}-{kind}{between}"));
    let [images, labels] = [names("images").map(|n| n + "idx3-ubyte"), names("labels").map(|n| n + "idx1-ubyte")];
    let images = find_one(dir, name, &["", raw], &images)?;
    let beside = images.parent().unwrap_or(dir);
    let labels = find_one(beside, name, &[""], &labels)?;
    Ok(Files { images, labels })
}

fn find_one(dir: &Path, dataset: DatasetName, places: &[&str], names: &[String]) -> Result<PathBuf, Error> {
    let looked_for: Vec<String> = places.iter().flat_map(|p| names.iter().map(move |n| format!("{p}{n}"))).collect();
    for file in &looked_for {
        for path in [dir.join(file), dir.join(format!("{file}.gz"))] {
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => return Ok(path),
                Err(source) if source.kind() == ErrorKind::PermissionDenied => return Err(Error::Io { path, source }),
                _ => {}
            }
        }
    }
    Err(Error::MissingFile { path: dir.to_owned(), dataset, looked_for })
}

/// Reads a set from its two files.
pub(crate) fn read(files: &Files, class_names: Vec<String>) -> Result<ImageSet, Error> {
    let labels = read_one(&files.labels, Kind::Labels)?;
    let wrong = |path: &Path, reason| Err(Error::Idx { path: path.to_owned(), reason });
    if let Some(i) = labels.iter().position(|&label| usize::from(label) >= class_names.len()) {
        let reason =
            format!("the label of image {i} is {}, but labels go from 0 to {}", labels[i], class_names.len() - 1);
        return wrong(&files.labels, reason);
    }
    let pixels = read_one(&files.images, Kind::Images)?;
    let count = pixels.len() / (SIDE * SIDE) as usize;
    if count != labels.len() {
        let reason = format!("holds {count} images, but {} holds {} labels", files.labels.display(), labels.len());
        return wrong(&files.images, reason);
    }
    let labels = labels.into_iter().map(u32::from).collect();
    ImageSet::new([1, SIDE as usize, SIDE as usize], pixels, labels, class_names)
}

/// The bytes after a file's header: `[n, 28, 28]` pixels or `[n]` labels.
fn read_one(path: &Path, kind: Kind) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let file_len = file.metadata().map_err(io)?.len();
    let gzipped = path.extension().is_some_and(|extension| extension == "gz");
    let mut reader: Box<dyn Read> =
        if gzipped { Box::new(MultiGzDecoder::new(BufReader::new(file))) } else { Box::new(BufReader::new(file)) };
    // The decoder's errors mean that the gzip data is damaged, not that reading failed.
    let read_error = |source: std::io::Error| match source.kind() {
        ErrorKind::UnexpectedEof if gzipped => idx(path, "the gzip is cut short"),
        ErrorKind::InvalidInput | ErrorKind::InvalidData if gzipped => idx(path, &format!("broken gzip ({source})")),
        _ => Error::Io { path: path.to_owned(), source },
    };

    let header_len = if kind == Kind::Images { 16 } else { 8 };
    let mut header = Vec::with_capacity(16);
    reader.by_ref().take(header_len).read_to_end(&mut header).map_err(read_error)?;
    let count = check_header(&header, kind).map_err(|reason| idx(path, &reason))?;

    let claim = u64::from(count) * if kind == Kind::Images { u64::from(SIDE * SIDE) } else { 1 };
    let thing = if kind == Kind::Images { "images of 28 x 28 bytes" } else { "labels" };
    let differs = |found: &str| idx(path, &format!("the header promises {count} {thing}, {claim} bytes, but {found}"));
    let mut data = Vec::new();
    if !gzipped {
        let there = file_len.saturating_sub(header_len);
        if there != claim {
            return Err(differs(&format!("{there} follow it")));
        }
        data.reserve_exact(claim as usize);
    }
    reader.take(claim + 1).read_to_end(&mut data).map_err(read_error)?;
    match (data.len() as u64).cmp(&claim) {
        std::cmp::Ordering::Less => Err(differs(&format!("only {} follow it", data.len()))),
        std::cmp::Ordering::Greater => Err(differs("more follow it")),
        std::cmp::Ordering::Equal => Ok(data),
    }
}

/// The number of images or labels according to the header, or what is wrong with the header.
fn check_header(header: &[u8], kind: Kind) -> Result<u32, String> {
    let fields: Vec<u32> = header.as_chunks::<4>().0.iter().map(|&bytes| u32::from_be_bytes(bytes)).collect();
    let (expected, what) = match kind {
        Kind::Images => (IMAGES_MAGIC, "images (magic number 2051)"),
        Kind::Labels => (LABELS_MAGIC, "labels (magic number 2049)"),
    };
    if header.starts_with(&[0x1f, 0x8b]) {
        return Err(format!(
            "is gzipped, but its name does not end in .gz; expected plain IDX {what}: rename or unpack it"
        ));
    }
    match fields.first() {
        Some(&magic) if magic == expected => {}
        Some(&LABELS_MAGIC) => return Err(format!("is an IDX file of labels; expected {what}")),
        Some(&IMAGES_MAGIC) => return Err(format!("is an IDX file of images; expected {what}")),
        Some(magic) => return Err(format!("is not IDX {what}: it begins with the number {magic}")),
        None => {}
    }
    match (kind, fields.as_slice()) {
        (_, &[_, count, ..]) if count == 0 || count > MAX_COUNT => {
            Err(format!("the header promises {count} items; expected 1 to {MAX_COUNT}"))
        }
        (Kind::Labels, &[_, count]) | (Kind::Images, &[_, count, SIDE, SIDE]) => Ok(count),
        (Kind::Images, [_, _, rows, columns]) => {
            Err(format!("the header promises images of {rows} x {columns}; expected 28 x 28"))
        }
        _ => Err(format!("is cut short within the header, after {} bytes", header.len())),
    }
}

fn idx(path: &Path, reason: &str) -> Error {
    Error::Idx { path: path.to_owned(), reason: reason.to_owned() }
}
