//! The address, the token and the cache folder, configured as in Python's `huggingface_hub`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use crate::Error;

/// The public Hub.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// How to reach the Hub and where to cache its files.
///
/// ```
/// use kakusan_hub::HubConfig;
///
/// let mut config = HubConfig::new("http://127.0.0.1:8000", "cache/hub");
/// config.token = Some("hf_secret".to_owned());
/// assert!(!format!("{config:?}").contains("secret"));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct HubConfig {
    /// The Hub's address, `https://huggingface.co` or a mirror.
    pub endpoint: String,
    /// Sent only to the endpoint, never printed.
    pub token: Option<String>,
    /// The cache, in the layout that Python uses: `~/.cache/huggingface/hub` by default.
    pub cache_dir: PathBuf,
    /// Use only the cache; open no connection.
    pub offline: bool,
    /// Time limit for a file's metadata, including the connection (10 s).
    pub etag_timeout: Duration,
    /// Time limit for a download that receives no bytes (10 s).
    pub download_timeout: Duration,
    /// Time limit for a push that makes no progress, such as the Hub's work on a commit (60 s).
    pub upload_timeout: Duration,
    /// The longest total wait for one file if the Hub asks us to wait by `Retry-After` (5 min, the period of its
    /// limits).
    pub max_wait: Duration,
}

impl HubConfig {
    /// A configuration with this endpoint and cache folder: no token, online, Python's time limits.
    pub fn new(endpoint: impl Into<String>, cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: endpoint.into(),
            token: None,
            cache_dir: cache_dir.into(),
            offline: false,
            etag_timeout: Duration::from_secs(10),
            download_timeout: Duration::from_secs(10),
            upload_timeout: Duration::from_secs(60),
            max_wait: Duration::from_secs(300),
        }
    }

    /// Reads the environment as `huggingface_hub` does. An empty variable counts as unset.
    ///
    /// - endpoint: `HF_ENDPOINT`
    /// - token: `HF_TOKEN`, else the file `HF_TOKEN_PATH`, else the file `$HF_HOME/token`; none if
    ///   `HF_HUB_DISABLE_IMPLICIT_TOKEN` is on
    /// - cache: `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `$HF_HOME/hub`
    /// - `HF_HOME` defaults to `$XDG_CACHE_HOME/huggingface`, else `~/.cache/huggingface`
    /// - offline: `HF_HUB_OFFLINE`
    /// - time limits in seconds: `HF_HUB_ETAG_TIMEOUT` and `HF_HUB_DOWNLOAD_TIMEOUT`; a push waits as long if that
    ///   is longer than 60 s
    ///
    /// # Errors
    /// [`Error::Config`] for an endpoint that is not an http(s) address, a time limit that is not a number, a token
    /// that cannot be sent in a header, or a missing home folder; [`Error::Io`] for a token file that cannot be read.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let var = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let home = || var("HOME").or_else(|| var("USERPROFILE")).map(PathBuf::from);
        let folder = |name: &str| var(name).map(|value| expand(&value, home()));
        let on = |name: &str| var(name).is_some_and(|value| is_on(&value));

        let cache_home = || folder("XDG_CACHE_HOME").or_else(|| home().map(|home| home.join(".cache")));
        let hf_home = || {
            let reason = "there is no home folder for the Hub's cache: set HF_HOME".to_owned();
            let hf_home = folder("HF_HOME").or_else(|| cache_home().map(|cache| cache.join("huggingface")));
            hf_home.ok_or(Error::Config { reason })
        };

        let cache_dir = match folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE")) {
            Some(cache) => cache,
            None => hf_home()?.join("hub"),
        };
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let mut config = Self::new(endpoint.trim().trim_end_matches('/'), cache_dir);
        config.offline = on("HF_HUB_OFFLINE");
        if !on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            config.token = match var("HF_TOKEN").or_else(|| var("HUGGING_FACE_HUB_TOKEN")) {
                Some(token) => Some(token.trim().to_owned()),
                None => match folder("HF_TOKEN_PATH") {
                    Some(path) => read_token(&path)?,
                    // Without a home there is no token file either.
                    None => hf_home().ok().map_or(Ok(None), |home| read_token(&home.join("token")))?,
                },
            };
        }
        if let Some(limit) = var("HF_HUB_ETAG_TIMEOUT") {
            config.etag_timeout = seconds("HF_HUB_ETAG_TIMEOUT", &limit, config.etag_timeout)?;
        }
        if let Some(limit) = var("HF_HUB_DOWNLOAD_TIMEOUT") {
            config.download_timeout = seconds("HF_HUB_DOWNLOAD_TIMEOUT", &limit, config.download_timeout)?;
            config.upload_timeout = config.upload_timeout.max(config.download_timeout);
        }
        config.check()?;
        Ok(config)
    }

    /// Validates the settings and returns the endpoint as a URL.
    pub(crate) fn check(&self) -> Result<Url, Error> {
        let fail = |reason: String| Err(Error::Config { reason });
        if let Some(token) = &self.token
            && !token.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return fail("the token contains invalid characters: correct HF_TOKEN".to_owned());
        }
        let Ok(url) = Url::parse(&self.endpoint) else {
            return fail(format!("HF_ENDPOINT is {:?}: expected an address like {DEFAULT_ENDPOINT}", self.endpoint));
        };
        if !url.username().is_empty() || url.password().is_some() {
            return fail("HF_ENDPOINT contains a user name or password: set HF_TOKEN instead".to_owned());
        }
        if !matches!(url.scheme(), "http" | "https") || url.query().is_some() || url.fragment().is_some() {
            let what = "expected an http or https address without query, like";
            return fail(format!("HF_ENDPOINT is {:?}: {what} {DEFAULT_ENDPOINT}", self.endpoint));
        }
        Ok(url)
    }
}

impl fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubConfig")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("cache_dir", &self.cache_dir)
            .field("offline", &self.offline)
            .field("etag_timeout", &self.etag_timeout)
            .field("download_timeout", &self.download_timeout)
            .field("upload_timeout", &self.upload_timeout)
            .field("max_wait", &self.max_wait)
            .finish()
    }
}

/// Whether Python takes the value of an environment variable as true.
fn is_on(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].iter().any(|word| value.trim().eq_ignore_ascii_case(word))
}

/// `~` and `~/…` stand for the home folder.
fn expand(value: &str, home: Option<PathBuf>) -> PathBuf {
    match (value.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home,
        (Some(rest), Some(home)) if rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
        _ => PathBuf::from(value),
    }
}

/// Whole seconds; 0 stands for the default, as in Python.
fn seconds(name: &str, value: &str, default: Duration) -> Result<Duration, Error> {
    match value.trim().parse::<u32>() {
        Ok(0) => Ok(default),
        Ok(seconds) => Ok(Duration::from_secs(seconds.into())),
        Err(_) => Err(Error::Config { reason: format!("{name} is {value:?}: expected a whole number of seconds") }),
    }
}

/// The token in a file; a file that does not exist is no token.
fn read_token(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|token| !token.is_empty())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> Result<HubConfig, Error> {
        HubConfig::from_lookup(|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn defaults_are_pythons() {
        let config = config(&[("HOME", "/home/ada")]).unwrap();
        assert_eq!(config.endpoint, "https://huggingface.co");
        assert_eq!(config.cache_dir, Path::new("/home/ada/.cache/huggingface/hub"));
        assert!(!config.offline && config.token.is_none());
        assert_eq!((config.etag_timeout.as_secs(), config.download_timeout.as_secs()), (10, 10));
    }

    #[test]
    fn the_cache_folder_follows_pythons_order() {
        let mut vars = vec![("HOME", "/h")];
        for (name, value, cache) in [
            ("XDG_CACHE_HOME", "/x", "/x/huggingface/hub"),
            ("HF_HOME", "~/hf", "/h/hf/hub"),
            ("HUGGINGFACE_HUB_CACHE", "/old", "/old"),
            ("HF_HUB_CACHE", "/new", "/new"),
        ] {
            vars.insert(0, (name, value));
            assert_eq!(config(&vars).unwrap().cache_dir, Path::new(cache), "{name}");
        }
        // An empty variable is unset; a missing home is an error only if it is needed.
        assert_eq!(
            config(&[("HF_HOME", ""), ("HOME", "/h")]).unwrap().cache_dir,
            Path::new("/h/.cache/huggingface/hub")
        );
        assert_eq!(config(&[("HF_HUB_CACHE", "/c")]).unwrap().cache_dir, Path::new("/c"));
        assert!(config(&[]).unwrap_err().to_string().contains("HF_HOME"));
    }

    #[test]
    fn switches_take_pythons_words() {
        for (value, on) in [
            ("1", true),
            ("on", true),
            ("Yes", true),
            ("TRUE", true),
            ("0", false),
            ("false", false),
            ("", false),
            ("2", false),
        ] {
            assert_eq!(config(&[("HOME", "/h"), ("HF_HUB_OFFLINE", value)]).unwrap().offline, on, "{value:?}");
        }
    }

    #[test]
    fn the_token_comes_from_the_environment_then_from_files() {
        let home = tempfile::tempdir().unwrap();
        let hf_home = home.path().to_str().unwrap();
        std::fs::write(home.path().join("token"), "from-home\n").unwrap();
        let path = home.path().join("other");
        std::fs::write(&path, " from-path ").unwrap();

        let mut vars = vec![("HF_HOME", hf_home)];
        assert_eq!(config(&vars).unwrap().token.as_deref(), Some("from-home"));
        vars.push(("HF_TOKEN_PATH", path.to_str().unwrap()));
        assert_eq!(config(&vars).unwrap().token.as_deref(), Some("from-path"));
        vars.push(("HF_TOKEN", "from-env\n"));
        assert_eq!(config(&vars).unwrap().token.as_deref(), Some("from-env"));
        vars.push(("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"));
        assert_eq!(config(&vars).unwrap().token, None);
    }

    #[test]
    fn limits_are_whole_seconds() {
        let vars = [("HOME", "/h"), ("HF_HUB_ETAG_TIMEOUT", "3"), ("HF_HUB_DOWNLOAD_TIMEOUT", "0")];
        let config = config(&vars).unwrap();
        assert_eq!((config.etag_timeout.as_secs(), config.download_timeout.as_secs()), (3, 10));
        let config = self::config(&[("HOME", "/h"), ("HF_HUB_DOWNLOAD_TIMEOUT", "90")]).unwrap();
        assert_eq!((config.download_timeout.as_secs(), config.upload_timeout.as_secs()), (90, 90));
        let error = self::config(&[("HOME", "/h"), ("HF_HUB_ETAG_TIMEOUT", "soon")]).unwrap_err();
        assert!(error.to_string().contains("HF_HUB_ETAG_TIMEOUT"), "{error}");
    }

    #[test]
    fn messages_never_show_secrets() {
        for endpoint in
            ["huggingface.co", "ftp://huggingface.co", "https://hf.co/?a=b", "https://u:secret@hf.co", "http://"]
        {
            let error = config(&[("HOME", "/h"), ("HF_ENDPOINT", endpoint)]).unwrap_err().to_string();
            assert!(error.contains("HF_ENDPOINT") && !error.contains("secret"), "{error}");
        }
        let error = config(&[("HOME", "/h"), ("HF_TOKEN", "hf_\u{1}secret")]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"));
        let config =
            config(&[("HOME", "/h"), ("HF_TOKEN", "hf_secret"), ("HF_ENDPOINT", "http://mirror/hub/")]).unwrap();
        assert_eq!(config.endpoint, "http://mirror/hub");
        assert!(!format!("{config:?}").contains("secret"));
    }
}
