//! The checksums of a folder's files, in the format of `sha256sum`.

use std::fmt::Write;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use kakusan_weights::disk;
use sha2::{Digest, Sha256};

use super::run_files::sync_folder;
use crate::files::{read_text, write_whole};
use crate::{Error, Result};

pub(crate) const CHECKSUMS_FILE: &str = "SHA256SUMS";
/// A checkpoint has a handful of files; a larger list is damaged.
const MAX_BYTES: u64 = 1 << 20;

/// Writes the checksums of all files under `dir` to a file in `dir`, and syncs files and folders to disk.
pub(crate) fn seal(dir: &Path) -> Result<()> {
    let (mut files, mut folders) = (vec![], vec![]);
    walk(dir, &mut files, &mut folders)?;
    files.sort();
    let mut sums = String::new();
    for path in &files {
        let file = File::options().read(true).write(true).open(path).map_err(Error::io("open", path))?;
        let sum = sha256(&file).map_err(Error::io("read", path))?;
        disk::sync_file(&file, path).map_err(Error::io("write", path))?;
        let name: Vec<_> = path.strip_prefix(dir).unwrap_or(path).iter().map(|part| part.to_string_lossy()).collect();
        let _ = writeln!(sums, "{sum}  {}", name.join("/"));
    }
    write_whole(&dir.join(CHECKSUMS_FILE), sums.as_bytes())?;
    folders.iter().try_for_each(|folder| sync_folder(folder))
}

/// Verifies that every listed file exists with the same bytes. The error names one that does not.
pub(crate) fn verify(dir: &Path) -> std::result::Result<(), String> {
    let list = dir.join(CHECKSUMS_FILE);
    let size = fs::metadata(&list).map_err(|e| format!("{CHECKSUMS_FILE} cannot be read: {e}"))?.len();
    if size > MAX_BYTES {
        return Err(format!("{CHECKSUMS_FILE} has {size} bytes; at most {MAX_BYTES} are read"));
    }
    let text = read_text(&list).map_err(|e| e.to_string())?;
    if text.is_empty() {
        return Err(format!("{CHECKSUMS_FILE} is empty"));
    }
    for line in text.lines() {
        let (expected, name) = line.split_once("  ").ok_or_else(|| format!("{CHECKSUMS_FILE} is damaged"))?;
        if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(format!("{CHECKSUMS_FILE} names {name:?}, which leads out of the checkpoint"));
        }
        let sum = File::open(dir.join(name)).and_then(|file| sha256(&file));
        let sum = sum.map_err(|e| format!("{name} cannot be read: {e}"))?;
        if sum != expected {
            return Err(format!("{name} is damaged: its checksum is not the one in {CHECKSUMS_FILE}"));
        }
    }
    Ok(())
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>, folders: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let path = entry.map_err(Error::io("read", dir))?.path();
        if path.is_dir() {
            walk(&path, files, folders)?;
        } else {
            files.push(path);
        }
    }
    folders.push(dir.to_owned()); // after its contents
    Ok(())
}

fn sha256(mut file: &File) -> std::io::Result<String> {
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(hasher.finalize().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_is_verified_byte_by_byte() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir(dir.join("unet")).unwrap();
        fs::write(dir.join("unet/weights"), "abc").unwrap();
        fs::write(dir.join("state"), "").unwrap();
        seal(dir).unwrap();
        let expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  state\n\
                        ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  unet/weights\n";
        assert_eq!(fs::read_to_string(dir.join(CHECKSUMS_FILE)).unwrap(), expected);
        assert_eq!(verify(dir), Ok(()));
        for (file, bytes, word) in [
            ("unet/weights", "abd", "unet/weights is damaged"),
            ("state", "a", "state is damaged"),
            (CHECKSUMS_FILE, "", "is empty"),
            (CHECKSUMS_FILE, "what", "is damaged"),
            (CHECKSUMS_FILE, "0  /dev/zero", "leads out of the checkpoint"),
            (CHECKSUMS_FILE, "0  unet/../../state", "leads out of the checkpoint"),
        ] {
            let before = fs::read(dir.join(file)).unwrap();
            fs::write(dir.join(file), bytes).unwrap();
            let error = verify(dir).unwrap_err();
            assert!(error.contains(word), "{error}");
            fs::write(dir.join(file), before).unwrap();
        }
        fs::remove_file(dir.join("state")).unwrap();
        assert!(verify(dir).unwrap_err().contains("state cannot be read"));
    }
}
