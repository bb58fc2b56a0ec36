//! Pictures in a zip, tar or tar.gz archive. The archive is scanned once. Pictures of a zip or tar are then read in
//! place; those of a tar.gz, which allows no random access, are held in memory. Nothing is unpacked to disk.

use std::{
    ffi::OsString,
    fmt::Display,
    fs,
    io::{BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use flate2::read::{DeflateDecoder, MultiGzDecoder};
use zip::{CompressionMethod, ZipArchive};

use crate::{
    Error,
    folder::{Kind, MAX_DEPTH, MAX_FILES, is_passed_over},
    photos::Photo,
    raster::MAX_FILE_BYTES,
    tree::{File, Tree},
};

/// Limits for a tar.gz: the bytes of all its pictures, and the bytes read from it in total.
const MAX_HELD: u64 = 1 << 31;
const MAX_STREAM: u64 = 1 << 36;
/// Limits for names: a path within an archive, and an extended header of a tar, in bytes.
const MAX_NAME: usize = 4096;
const MAX_HEADER: u64 = 1 << 16;

/// A picture in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    archive: Arc<PathBuf>,
    name: String,
    data: Data,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Data {
    /// Bytes of the archive from `start` on. `checksum` is the CRC-32 of the unpacked bytes.
    Place {
        start: u64,
        packed: u64,
        size: u64,
        is_deflated: bool,
        checksum: Option<u32>,
    },
    Held(Arc<[u8]>),
}

impl Member {
    /// The bytes of the picture's file, at most the first `most`.
    pub(crate) fn bytes(&self, most: u64) -> Result<Vec<u8>, String> {
        let unread = |error: std::io::Error| format!("cannot be read: {error}");
        let Data::Place { start, packed, size, is_deflated, checksum } = self.data else {
            let Data::Held(bytes) = &self.data else { return Ok(Vec::new()) };
            return Ok(bytes.iter().copied().take(usize::try_from(most).unwrap_or(usize::MAX)).collect());
        };
        if size > MAX_FILE_BYTES {
            return Err(format!("has {size} bytes; a picture may have at most {MAX_FILE_BYTES}"));
        }
        let mut file = fs::File::open(&*self.archive).map_err(unread)?;
        file.seek(SeekFrom::Start(start)).map_err(unread)?;
        let (packed, wanted) = (file.take(packed), size.min(most));
        let mut bytes = Vec::new();
        let read = match is_deflated {
            true => DeflateDecoder::new(packed).take(wanted).read_to_end(&mut bytes),
            false => packed.take(wanted).read_to_end(&mut bytes),
        };
        read.map_err(unread)?;
        if bytes.len() as u64 != wanted {
            return Err(format!("is cut short: it has {} of {size} bytes", bytes.len()));
        }
        let mut crc = flate2::Crc::new();
        crc.update(&bytes);
        match checksum {
            Some(checksum) if wanted == size && crc.sum() != checksum => {
                Err("is damaged: its checksum does not match".to_owned())
            }
            _ => Ok(bytes),
        }
    }

    /// The location for a message: the archive's path, followed by the name within the archive.
    pub(crate) fn path(&self) -> PathBuf {
        self.archive.join(&self.name)
    }
}

/// Whether the file is a supported archive, according to its first bytes.
pub(crate) fn is_archive(path: &Path) -> bool {
    let mut start = [0; 512];
    let read = fs::File::open(path).and_then(|file| file.take(512).read(&mut start));
    read.is_ok_and(|read| is_zip(&start[..read]) || is_gzip(&start[..read]) || is_tar(&start[..read]))
}

fn is_zip(start: &[u8]) -> bool {
    start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06")
}

fn is_gzip(start: &[u8]) -> bool {
    start.starts_with(&[0x1f, 0x8b])
}

fn is_tar(start: &[u8]) -> bool {
    start.get(257..262) == Some(b"ustar")
}

/// Finds the pictures of an archive, arranged in its folders.
///
/// # Errors
/// [`Error::Images`] if the archive is damaged, a name leads out of it, a link takes the place of a picture, or the
/// archive is too large.
pub(crate) fn find(path: &Path) -> Result<Tree, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let wrong = |reason: String| Error::Images { path: path.to_owned(), reason };
    let mut file = fs::File::open(path).map_err(io)?;
    let mut start = Vec::new();
    file.by_ref().take(512).read_to_end(&mut start).map_err(io)?;
    file.rewind().map_err(io)?;
    let mut found = Found { archive: Arc::new(path.to_owned()), tree: Tree::default(), count: 0, tables: 0 };
    let done = if is_zip(&start) {
        of_zip(file, &mut found)
    } else if is_gzip(&start) {
        of_tar(MultiGzDecoder::new(BufReader::new(file)).take(MAX_STREAM), true, &mut found)
    } else {
        of_tar(BufReader::new(file), false, &mut found)
    };
    done.map_err(wrong)?;
    if found.count == 0 && found.tables > 0 {
        return Err(wrong("holds parquet files, which are not read in an archive; unpack it into a folder".to_owned()));
    }
    let mut tree = found.tree;
    tree.packed_tables = found.tables;
    tree.sort_all();
    Ok(tree)
}

/// The pictures found so far.
struct Found {
    archive: Arc<PathBuf>,
    tree: Tree,
    count: usize,
    tables: usize,
}

impl Found {
    /// The folders and the file name of a picture; `None` if `name` is not a picture.
    fn place(&mut self, name: &str) -> Result<Option<(Vec<OsString>, OsString)>, String> {
        if name.len() > MAX_NAME || name.contains('\0') {
            return Err(format!(
                "holds a name that no file can have, {:?} ...",
                name.chars().take(40).collect::<String>()
            ));
        }
        let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if name.starts_with('/') || parts.contains(&"..") {
            return Err(format!("holds {name:?}, which leads out of the archive"));
        }
        if parts.len() > MAX_DEPTH {
            return Err(format!("holds {name:?}, which lies {MAX_DEPTH} folders deep"));
        }
        let Some((file, folders)) = parts.split_last() else { return Ok(None) };
        let folders: Vec<OsString> = folders.iter().map(OsString::from).collect();
        if folders.iter().any(|folder| is_passed_over(folder)) {
            return Ok(None);
        }
        let file = OsString::from(file);
        match Kind::of(&file) {
            Kind::Picture => {}
            Kind::Metadata => {
                self.folder(&folders).metadata = Some(file);
                return Ok(None);
            }
            Kind::Table => {
                self.tables += 1;
                return Ok(None);
            }
            Kind::Nothing => return Ok(None),
        }
        self.count += 1;
        match self.count > MAX_FILES {
            true => Err(format!("holds more than {MAX_FILES} pictures")),
            false => Ok(Some((folders, file))),
        }
    }

    fn folder(&mut self, folders: &[OsString]) -> &mut Tree {
        folders.iter().fold(&mut self.tree, |tree, folder| tree.folders.entry(folder.clone()).or_default())
    }

    fn add(&mut self, (folders, file): (Vec<OsString>, OsString), name: &str, data: Data) {
        let photo = Photo::Member(Member { archive: self.archive.clone(), name: name.to_owned(), data });
        self.folder(&folders).files.push(File { name: file, photo });
    }
}

fn of_zip(file: fs::File, found: &mut Found) -> Result<(), String> {
    let damaged = |error: &dyn Display| format!("is not a valid zip archive: {error}");
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| damaged(&error))?;
    for i in 0..archive.len() {
        let member = archive.by_index_raw(i).map_err(|error| damaged(&error))?;
        let name = member.name().map_err(|error| damaged(&error))?.into_owned();
        if member.is_dir() {
            continue;
        }
        let Some(place) = found.place(&name)? else { continue };
        let is_deflated = match member.compression() {
            CompressionMethod::Stored => false,
            CompressionMethod::Deflated => true,
            other => return Err(format!("holds {name:?}, compressed by {other}; expected deflate or none")),
        };
        if member.is_symlink() {
            return Err(link(&name));
        }
        if member.encrypted() {
            return Err(format!("holds {name:?}, which is encrypted"));
        }
        let start = member.data_start().ok_or_else(|| damaged(&format!("{name:?} has no data")))?;
        let (packed, size) = (member.compressed_size(), member.size());
        found.add(place, &name, Data::Place { start, packed, size, is_deflated, checksum: Some(member.crc32()) });
    }
    Ok(())
}

fn of_tar(stream: impl Read, is_packed: bool, found: &mut Found) -> Result<(), String> {
    let damaged = |error: std::io::Error| format!("is not a valid tar archive: {error}");
    let mut archive = tar::Archive::new(stream);
    let (mut long_name, mut held): (Option<String>, u64) = (None, 0);
    // Raw entries: headers that hold the next member's name are read here, with a size limit.
    for member in archive.entries().map_err(damaged)?.raw(true) {
        let mut member = member.map_err(damaged)?;
        let kind = member.header().entry_type();
        if kind.is_gnu_longname() || kind.is_pax_local_extensions() {
            let size = member.size();
            if size > MAX_HEADER {
                return Err(format!("has a header of {size} bytes; at most {MAX_HEADER} are read"));
            }
            let mut text = Vec::new();
            member.read_to_end(&mut text).map_err(damaged)?;
            if kind.is_gnu_longname() {
                long_name = Some(String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned());
            } else if let Some(name) = pax_path(&text) {
                long_name = Some(name);
            }
            continue;
        }
        if kind.is_pax_global_extensions() || kind.is_gnu_longlink() {
            continue;
        }
        let own = || String::from_utf8_lossy(&member.path_bytes()).into_owned();
        let name = long_name.take().unwrap_or_else(own);
        if kind.is_dir() {
            continue;
        }
        let Some(place) = found.place(&name)? else { continue };
        if !(kind.is_file() || kind.is_contiguous()) {
            return Err(link(&name));
        }
        let size = member.size();
        if !is_packed {
            let start = member.raw_file_position();
            let data = Data::Place { start, packed: size, size, is_deflated: false, checksum: None };
            found.add(place, &name, data);
            continue;
        }
        held = held.saturating_add(size);
        if held > MAX_HELD || size > MAX_FILE_BYTES {
            return Err(format!(
                "has pictures of more than {MAX_HELD} bytes in total, or {MAX_FILE_BYTES} in one, too much to hold in \
                 memory; unpack it into a folder, or pack it as tar or zip, which are read in place"
            ));
        }
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).map_err(damaged)?;
        found.add(place, &name, Data::Held(bytes.into()));
    }
    Ok(())
}

fn link(name: &str) -> String {
    format!("holds {name:?}, which is a link or another special file; pack the pictures themselves")
}

/// The path that an extended header gives to the next member, from lines of the form `length path=...`.
fn pax_path(text: &[u8]) -> Option<String> {
    let mut values = text.split(|&byte| byte == b'\n').filter_map(|line| {
        let after = line.iter().position(|&byte| byte == b' ')? + 1;
        line[after..].strip_prefix(b"path=")
    });
    values.next_back().map(|name| String::from_utf8_lossy(name).into_owned())
}
