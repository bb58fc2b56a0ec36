//! A file of a repository, with a validated name: it becomes both a URL and a path.

use std::fmt;

use reqwest::Url;

use crate::Error;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Model,
    Dataset,
}

impl Kind {
    /// The folder's prefix in the cache. URLs of models have no prefix.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

/// A file that may be requested: its path cannot leave the folder of its repository.
#[derive(Clone, Copy)]
pub(crate) struct RepoFile<'a> {
    pub(crate) kind: Kind,
    pub(crate) repo_id: &'a str,
    pub(crate) revision: &'a str,
    pub(crate) filename: &'a str,
}

impl<'a> RepoFile<'a> {
    pub(crate) fn new(kind: Kind, repo_id: &'a str, revision: &'a str, filename: &'a str) -> Result<Self, Error> {
        check("repository id", repo_id, repo_id_fault(repo_id))?;
        check("revision", revision, path_fault(revision))?;
        check("file name", filename, path_fault(filename))?;
        Ok(Self { kind, repo_id, revision, filename })
    }

    /// The file's address: `{endpoint}[/datasets]/{owner}/{name}/resolve/{revision}/{path}`, the revision in one
    /// segment.
    pub(crate) fn url(&self, endpoint: &Url) -> Url {
        let mut url = endpoint.clone();
        // An http address always has path segments.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty();
            if let Kind::Dataset = self.kind {
                segments.push("datasets");
            }
            segments.extend(self.repo_id.split('/')).push("resolve").push(self.revision);
            segments.extend(self.filename.split('/'));
        }
        url
    }

    /// Whether the revision is a commit, which never changes.
    pub(crate) fn is_pinned(&self) -> bool {
        is_commit(self.revision)
    }
}

impl fmt::Display for RepoFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Model => "model",
            Kind::Dataset => "dataset",
        };
        write!(f, "{} of {kind} {} at {}", self.filename, self.repo_id, self.revision)
    }
}

pub(crate) fn is_commit(text: &str) -> bool {
    is_hex(text, 40)
}

pub(crate) fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn check(what: &'static str, value: &str, fault: Option<&'static str>) -> Result<(), Error> {
    match fault {
        Some(reason) => Err(Error::Name { what, value: value.to_owned(), reason }),
        None => Ok(()),
    }
}

/// The Hub's rules, as in `huggingface_hub.utils.validate_repo_id`.
fn repo_id_fault(id: &str) -> Option<&'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    if id.len() > 96 || !id.bytes().all(allowed) || id.split('/').count() > 2 {
        Some("expected \"owner/name\" of at most 96 letters, digits, '-', '_' and '.'")
    } else if id.split('/').any(|part| part.is_empty() || part.starts_with(['-', '.']) || part.ends_with(['-', '.'])) {
        Some("neither owner nor name may be empty, or begin or end with '-' or '.'")
    } else if id.contains("--") || id.contains("..") || id.ends_with(".git") {
        Some("\"--\", \"..\" and a final \".git\" are not allowed")
    } else {
        None
    }
}

fn path_fault(path: &str) -> Option<&'static str> {
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        Some("expected a relative path without empty, '.' or '..' parts")
    } else if path.contains(['\\', ':']) || path.contains(char::is_control) || path.len() > 1024 {
        Some("expected at most 1024 characters, and no '\\', ':' or control characters")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let (long, file) = ("a".repeat(97), |repo, revision, name| RepoFile::new(Kind::Dataset, repo, revision, name));
        assert!(file("ylecun/mnist", "refs/convert/parquet", "mnist/train/0000.parquet").is_ok());
        assert!(file("mnist", "main", "a b#c?.json").is_ok());
        for repo in ["", "/", "a/b/c", "../x", "a/..", "/a", "a//b", "a b", "-a/b", "a/b.git", "a--b", "é", &long] {
            assert!(matches!(file(repo, "main", "f"), Err(Error::Name { what: "repository id", .. })), "{repo:?}");
        }
        for path in ["", "/etc/passwd", "..", "a/../b", "a//b", "a/.", "a\\b", "C:x", "a\0", "a/"] {
            assert!(matches!(file("a/b", "main", path), Err(Error::Name { what: "file name", .. })), "{path:?}");
            assert!(matches!(file("a/b", path, "f"), Err(Error::Name { what: "revision", .. })), "{path:?}");
        }
    }

    #[test]
    fn urls_are_the_hubs() {
        let url = |kind, endpoint: &str, repo, revision, name| {
            RepoFile::new(kind, repo, revision, name).unwrap().url(&Url::parse(endpoint).unwrap()).to_string()
        };
        assert_eq!(
            url(
                Kind::Dataset,
                "https://huggingface.co",
                "ylecun/mnist",
                "refs/convert/parquet",
                "mnist/train/0000.parquet"
            ),
            "https://huggingface.co/datasets/ylecun/mnist/resolve/refs%2Fconvert%2Fparquet/mnist/train/0000.parquet"
        );
        assert_eq!(
            url(Kind::Model, "http://mirror/hub/", "gpt2", "main", "a b#%.json"),
            "http://mirror/hub/gpt2/resolve/main/a%20b%23%25.json"
        );
    }
}
