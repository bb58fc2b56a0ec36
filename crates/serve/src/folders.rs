//! Folders by name: what a client names is never a path.

use std::path::{Path, PathBuf};

/// The most folders that are listed.
const MOST: usize = 1000;

/// The folders in a root, and some that have names of their own.
#[derive(Debug)]
pub(crate) struct Folders {
    root: PathBuf,
    named: Vec<(String, PathBuf)>,
}

impl Folders {
    pub(crate) fn new(root: PathBuf, named: Vec<(String, PathBuf)>) -> Self {
        Self { root, named }
    }

    /// The folder of this name, if there is one. A link that leads out of the root counts as none.
    pub(crate) fn find(&self, name: &str) -> Option<PathBuf> {
        if let Some((_, dir)) = self.named.iter().find(|(named, _)| named == name) {
            return dir.is_dir().then(|| dir.clone());
        }
        if !is_name(name) {
            return None;
        }
        let dir = self.root.join(name);
        let (root, real) = (self.root.canonicalize().ok()?, dir.canonicalize().ok()?);
        (real.starts_with(&root) && real != root && real.is_dir()).then_some(dir)
    }

    /// All folders with their names: the named ones, then those of the root in the order of their names.
    pub(crate) fn all(&self) -> Vec<(String, PathBuf)> {
        let mut names: Vec<String> = std::fs::read_dir(&self.root)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| self.named.iter().all(|(named, _)| named != name))
            .take(MOST)
            .collect();
        names.sort();
        let named = self.named.iter().map(|(name, _)| name.clone());
        named.chain(names).filter_map(|name| Some((name.clone(), self.find(&name)?))).collect()
    }
}

/// Whether a text can be the name of a folder: one component of a path, and not hidden.
pub(crate) fn is_name(text: &str) -> bool {
    let is_plain = |c: char| !matches!(c, '/' | '\\' | ':') && !c.is_control();
    (1..=255).contains(&text.len()) && !text.starts_with('.') && text.chars().all(is_plain)
}

/// The regular files in a folder, by name, with their sizes and the times of their last changes.
pub(crate) fn files(dir: &Path) -> Vec<(String, std::fs::Metadata)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().take(10 * MOST);
    let file = |entry: std::fs::DirEntry| {
        let about = entry.metadata().ok()?; // of a link itself, not of what it leads to
        let name = entry.file_name().into_string().ok()?;
        (about.is_file() && is_name(&name)).then_some((name, about))
    };
    let mut files: Vec<_> = entries.filter_map(file).collect();
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    files
}

/// Seconds since 1970 of a file's or folder's last change; 0 if that is unknown.
pub(crate) fn modified(about: &std::fs::Metadata) -> u64 {
    let since = about.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_path() {
        for name in ["184", "a b", "ünd", "v1.0"] {
            assert!(is_name(name), "{name}");
        }
        let long = "a".repeat(256);
        for path in ["", ".", "..", "../x", "a/b", "/etc", "a\\b", "C:x", "a\0b", "a\nb", ".hidden", long.as_str()] {
            assert!(!is_name(path), "{path:?}");
        }
    }
}
