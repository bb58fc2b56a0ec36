//! Folders of pictures: with a subfolder for each class or without classes, optionally divided into splits.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use crate::{
    Error,
    photos::Photo,
    tree::{File, Tree},
};

/// The most files below a folder.
pub(crate) const MAX_FILES: usize = 20_000_000;
pub(crate) const MAX_DEPTH: usize = 64;
/// Extensions of pictures: those that are decoded, and others, which an error mentions.
const PICTURES: [&str; 9] = ["png", "jpg", "jpeg", "jfif", "webp", "gif", "tif", "tiff", "bmp"];
const OTHERS: [&str; 8] = ["ppm", "pgm", "avif", "heic", "heif", "jxl", "jp2", "tga"];

/// Finds the pictures below `dir`; the case of an extension does not matter. As in `datasets`, names that begin with a
/// dot and folders whose names begin with `__` are ignored. Links are followed.
///
/// # Errors
/// [`Error::NotAFolder`]; [`Error::Io`] or [`Error::Images`] for a folder that cannot be read, or that contains a link
/// back to a folder above it.
pub(crate) fn find(dir: &Path) -> Result<Tree, Error> {
    match fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => {}
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::Io { path: dir.to_owned(), source });
        }
        _ => return Err(Error::NotAFolder { path: dir.to_owned() }),
    }
    let mut count = 0;
    walk(dir, &mut Vec::new(), &mut count)
}

/// The role of a file in a set of pictures, determined by its name.
pub(crate) enum Kind {
    Picture,
    /// A parquet file.
    Table,
    /// Labels and captions for `datasets`; this crate does not read them.
    Metadata,
    Nothing,
}

impl Kind {
    pub(crate) fn of(name: &OsStr) -> Self {
        let name = name.to_string_lossy().to_ascii_lowercase();
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        if name.starts_with('.') {
            Self::Nothing
        } else if ["metadata.csv", "metadata.jsonl", "metadata.parquet"].contains(&name.as_str()) {
            Self::Metadata
        } else if extension == "parquet" {
            Self::Table
        } else if PICTURES.iter().chain(&OTHERS).any(|&known| known == extension) {
            Self::Picture
        } else {
            Self::Nothing
        }
    }
}

/// The extensions that are decoded, for a message.
pub(crate) fn endings() -> String {
    format!(".{}", PICTURES.join(", ."))
}

/// Whether `datasets` ignores a folder of this name: a hidden folder, or one such as `__MACOSX`.
pub(crate) fn is_passed_over(folder: &OsStr) -> bool {
    let name = folder.as_encoded_bytes();
    name.starts_with(b".") || name.starts_with(b"__")
}

/// Reads `dir` and all folders below it. `above` holds the folders that lead to it, `count` the files so far.
fn walk(dir: &Path, above: &mut Vec<PathBuf>, count: &mut usize) -> Result<Tree, Error> {
    let io = |source| Error::Io { path: dir.to_owned(), source };
    let wrong = |reason: String| Error::Images { path: dir.to_owned(), reason };
    let real = fs::canonicalize(dir).map_err(io)?;
    if above.contains(&real) {
        return Err(wrong(format!("is a link to {}, a folder that contains it; remove the link", real.display())));
    }
    if above.len() >= MAX_DEPTH {
        return Err(wrong(format!("lies {MAX_DEPTH} folders deep")));
    }
    above.push(real);
    let mut tree = Tree::default();
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_owned();
        // A dangling link is a bad picture if it has a picture's extension, and is ignored if not.
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                if !is_passed_over(&name) {
                    tree.folders.insert(name, walk(&path, above, count)?);
                }
                continue;
            }
            Ok(metadata) if !metadata.is_file() => continue,
            _ => {}
        }
        match Kind::of(&name) {
            Kind::Picture => tree.files.push(File { name, photo: Photo::File(path) }),
            Kind::Table => tree.tables.push((name, path)),
            Kind::Metadata => tree.metadata = Some(name),
            Kind::Nothing => continue,
        }
        *count += 1;
        if *count > MAX_FILES {
            return Err(wrong(format!("is in a folder tree with more than {MAX_FILES} files")));
        }
    }
    above.pop();
    tree.sort();
    Ok(tree)
}

/// The name of a folder.
pub(crate) fn name(dir: &Path) -> String {
    let full = fs::canonicalize(dir).unwrap_or_default();
    let name: Option<OsString> = dir.file_name().or(full.file_name()).map(OsStr::to_owned);
    name.unwrap_or(dir.as_os_str().to_owned()).to_string_lossy().into_owned()
}
