//! A folder of pictures, with a subfolder for each class or without classes.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    Class, Error,
    photos::{Entry, Photo},
};

/// No folder has more files.
const MAX_FILES: usize = 20_000_000;
const MAX_DEPTH: usize = 64;
/// What is decoded, and what looks like a picture and is told to be none of those.
const PICTURES: [&str; 6] = ["png", "jpg", "jpeg", "jfif", "webp", "gif"];
const OTHERS: [&str; 11] = ["bmp", "tif", "tiff", "ppm", "pgm", "avif", "heic", "heif", "jxl", "jp2", "tga"];

/// The pictures of a folder and their labels, and the names of the classes.
pub(crate) struct Found {
    pub(crate) entries: Vec<Entry>,
    pub(crate) class_names: Vec<String>,
}

/// Finds the pictures below `dir`, whatever the case of their extension; hidden files and folders are passed over, links are followed.
///
/// As torchvision's `ImageFolder`, each subfolder with pictures is a class, and the classes are numbered by the order of their names.
/// Where `dir` itself holds pictures there are no classes but one, named as the folder. The order is that of the classes, within them of
/// the folders, within those of the files; names are compared byte by byte.
///
/// # Errors
/// [`Error::NotAFolder`], [`Error::Io`] for a folder that cannot be read or leads back into itself, [`Error::Images`] if there is no picture,
/// and what is wrong with `classes`.
pub(crate) fn find(dir: &Path, classes: Option<&[Class]>) -> Result<Found, Error> {
    match fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => {}
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::Io { path: dir.to_owned(), source });
        }
        _ => return Err(Error::NotAFolder { path: dir.to_owned() }),
    }
    let top = list(dir)?;
    let mut by_class: Vec<(String, Vec<PathBuf>)> = Vec::new();
    if top.files.is_empty() {
        for folder in &top.folders {
            let mut files = Vec::new();
            walk(folder, &mut vec![real(dir)?], &mut files)?;
            if !files.is_empty() {
                by_class.push((name(folder), files));
            }
        }
    } else {
        let mut files = Vec::new();
        walk(dir, &mut Vec::new(), &mut files)?;
        by_class.push((name(dir), files));
    }
    if by_class.is_empty() {
        let reason = format!("holds no picture: no file below it ends in .{}", PICTURES.join(", ."));
        return Err(Error::Images { path: dir.to_owned(), reason });
    }
    let class_names: Vec<String> = by_class.iter().map(|(name, _)| name.clone()).collect();
    let kept = match classes {
        Some(classes) => Class::labels(classes, &class_names, |_| true)?,
        None => (0..class_names.len() as u32).collect(),
    };
    let labelled = (0u32..).zip(by_class).filter(|(label, _)| kept.contains(label));
    let entry = |label, file| Entry { photo: Photo::File(file), label, header: None };
    let entries = labelled.flat_map(|(label, (_, files))| files.into_iter().map(move |file| entry(label, file)));
    Ok(Found { entries: entries.collect(), class_names })
}

/// What lies directly in a folder, sorted.
#[derive(Default)]
struct Listing {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

fn list(dir: &Path) -> Result<Listing, Error> {
    let io = |path: &Path| {
        let path = path.to_owned();
        |source| Error::Io { path, source }
    };
    let mut listing = Listing::default();
    for entry in fs::read_dir(dir).map_err(io(dir))? {
        let path = entry.map_err(io(dir))?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        // A link to nothing is a bad picture if its name is a picture's, and nothing if not.
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => listing.folders.push(path),
            Ok(metadata) if !metadata.is_file() => {}
            _ if is_picture(&path) => listing.files.push(path),
            _ => {}
        }
        if listing.files.len() + listing.folders.len() > MAX_FILES {
            let reason = format!("holds more than {MAX_FILES} files");
            return Err(Error::Images { path: dir.to_owned(), reason });
        }
    }
    listing.files.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    listing.folders.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    Ok(listing)
}

/// Appends the pictures of `dir` and below. `above` are the folders that lead to it.
fn walk(dir: &Path, above: &mut Vec<PathBuf>, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let real = real(dir)?;
    let wrong = |reason: String| Error::Images { path: dir.to_owned(), reason };
    if above.contains(&real) {
        return Err(wrong(format!("is a link back to {}, which holds it; take the link away", real.display())));
    }
    if above.len() >= MAX_DEPTH {
        return Err(wrong(format!("lies {MAX_DEPTH} folders deep")));
    }
    let listing = list(dir)?;
    files.extend(listing.files);
    if files.len() > MAX_FILES {
        return Err(wrong(format!("is one of folders with more than {MAX_FILES} pictures")));
    }
    above.push(real);
    for folder in listing.folders {
        walk(&folder, above, files)?;
    }
    above.pop();
    Ok(())
}

fn real(dir: &Path) -> Result<PathBuf, Error> {
    fs::canonicalize(dir).map_err(|source| Error::Io { path: dir.to_owned(), source })
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default().to_ascii_lowercase();
    PICTURES.iter().chain(&OTHERS).any(|&known| known == extension)
}

fn name(dir: &Path) -> String {
    let full = fs::canonicalize(dir).unwrap_or_default();
    let name = if dir.file_name().is_some() { dir.file_name() } else { full.file_name() };
    name.unwrap_or(dir.as_os_str()).to_string_lossy().into_owned()
}
