//! Which images a word of the command line means: a folder or file, a set of the Hub, a named set, a configuration's.

use std::path::Path;

use kakusan::data::{DataConfig, DatasetName, SourceKind};
use kakusan::pipeline::{Error, Registry, Result, RunConfig};

/// The sets that have a name of their own.
const NAMED: [DatasetName; 3] = [DatasetName::Mnist, DatasetName::FashionMnist, DatasetName::Cifar10];

/// What [`of_word`] takes, for messages.
pub(crate) const WORDS: &str =
    "a folder, archive or parquet file, owner/name of the Hub, mnist, fashion_mnist or cifar10";

/// The data that `word` means, with the values of `--set`: of a folder or file that exists, of a configuration file, of
/// a named set, or of the Hub.
pub(crate) fn of_word(word: &str, overrides: &[String], registry: &Registry) -> Result<DataConfig> {
    let path = Path::new(word);
    if path.exists() {
        return match is_config(path) {
            true => of_file(path, overrides),
            false => of_path(path, overrides, registry),
        };
    }
    if let Some(name) = NAMED.iter().find(|name| name.to_string() == word) {
        return parse(&format!("name = \"{name}\""), word, overrides, registry);
    }
    if word.split('/').count() == 2 && !word.starts_with(['.', '/', '~']) && !word.ends_with('/') {
        return parse(&format!("name = \"hub\"\nrepo = {}", text(word)), word, overrides, registry);
    }
    Err(Error::Unfit(format!("there is no {word}; name {WORDS}")))
}

/// Whether the path is a configuration file.
pub(crate) fn is_config(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "toml")
}

/// The data of a configuration file.
pub(crate) fn of_file(file: &Path, overrides: &[String]) -> Result<DataConfig> {
    only_data(overrides)?;
    let data = RunConfig::load_data(file, overrides)?;
    data.ok_or_else(|| Error::Unfit(format!("{} has no [data]", file.display())))
}

/// The data of a folder or file, of the kind that it seems to hold.
pub(crate) fn of_path(path: &Path, overrides: &[String], registry: &Registry) -> Result<DataConfig> {
    let has =
        |names: &[&str]| names.iter().any(|name| path.join(name).exists() || path.join(format!("{name}.gz")).exists());
    let name = if has(&["train-images-idx3-ubyte", "train-images.idx3-ubyte", "MNIST/raw"]) {
        DatasetName::Mnist
    } else if has(&["FashionMNIST/raw"]) {
        DatasetName::FashionMnist
    } else if has(&["data_batch_1.bin", "cifar-10-batches-bin"]) {
        DatasetName::Cifar10
    } else {
        DatasetName::Folder
    };
    let config = parse(&format!("name = \"{name}\""), &path.display().to_string(), overrides, registry)?;
    Ok(DataConfig { dir: Some(path.to_owned()), sources: vec![SourceKind::Dir], ..config })
}

/// Refuses values of `--set` that are not for the data.
pub(crate) fn only_data(overrides: &[String]) -> Result<()> {
    match overrides.iter().find(|text| !text.trim_start().starts_with("data.")) {
        None => Ok(()),
        Some(other) => {
            Err(Error::Unfit(format!("--set {other}: only the data can be set here, as in data.classes=[1,8,4]")))
        }
    }
}

/// Reads `[data]` as part of a configuration, so that errors are the same as there.
fn parse(data: &str, origin: &str, overrides: &[String], registry: &Registry) -> Result<DataConfig> {
    only_data(overrides)?;
    let rest = "[model]\n_class_name = \"BasicUNet\"\n[scheduler]\n_class_name = \"DDPMScheduler\"\n";
    let config = RunConfig::parse(&format!("[data]\n{data}\n{rest}"), origin, overrides, registry)?;
    config.data.ok_or_else(|| Error::Unfit(format!("{origin} has no [data]")))
}

/// A text as TOML writes it.
pub(crate) fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string() // JSON's escapes are TOML's
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_path_before_it_is_a_name() {
        let (dir, registry) = (tempfile::tempdir().unwrap(), Registry::default());
        let of = |word: &str, set: &[&str]| {
            let set: Vec<String> = set.iter().map(|&text| text.to_owned()).collect();
            of_word(word, &set, &registry)
        };
        let folder = dir.path().to_str().unwrap();
        let config = of(folder, &["data.resolution=32"]).unwrap();
        assert_eq!((config.name, config.dir.as_deref()), (DatasetName::Folder, Some(dir.path())));
        assert_eq!(config.resolution, Some(32.into()));
        std::fs::write(dir.path().join("train-images-idx3-ubyte.gz"), []).unwrap();
        assert_eq!(of(folder, &[]).unwrap().name, DatasetName::Mnist);
        let config = of("own\"er/name", &["data.split=test"]).unwrap();
        assert_eq!((config.repo.as_deref(), config.split.as_deref()), (Some("own\"er/name"), Some("test")));
        assert_eq!(of("cifar10", &[]).unwrap().name, DatasetName::Cifar10);
        for word in ["photos", "./a/b", "/a/b", "a/b/c", "a/", ""] {
            assert!(of(word, &[]).unwrap_err().to_string().contains("owner/name of the Hub"), "{word}");
        }
        assert!(of("mnist", &["train.epochs=1"]).unwrap_err().to_string().contains("only the data can be set here"));
        assert!(of("mnist", &["data.clases=[1]"]).unwrap_err().to_string().contains("did you mean `classes`?"));
    }
}
