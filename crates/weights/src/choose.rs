//! Which of a folder's files are the weights: diffusers' rules, on names alone, so that they serve folders and the Hub.

use std::collections::BTreeSet;

/// The beginning of the name of every file of weights.
const STEM: &str = "diffusion_pytorch_model";
/// The formats, the better one first.
const FORMATS: [&str; 2] = ["safetensors", "bin"];

/// A file of weights, and the variant that it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightsFile {
    /// Its name: a `.safetensors` or `.bin` file, or the index of a sharded checkpoint, which ends in `.json`.
    pub name: String,
    /// `fp16`, `ema` and the like.
    pub variant: Option<String>,
}

/// The names under which a variant's weights may be found, the best first; diffusers writes the third and fourth only.
fn candidates(variant: Option<&str>) -> Vec<String> {
    FORMATS
        .iter()
        .flat_map(|format| match variant {
            None => vec![format!("{STEM}.{format}.index.json"), format!("{STEM}.{format}")],
            Some(variant) => vec![
                format!("{STEM}.{format}.index.{variant}.json"),
                format!("{STEM}.{format}.{variant}.index.json"), // before 0.32
                format!("{STEM}.{variant}.{format}"),
            ],
        })
        .collect()
}

/// Chooses among the names of a folder's files, or says why none can be chosen. Safetensors come before `.bin`, an
/// index before a single file. Without a `variant`, plain files come first; where there are none, the only variant.
///
/// ```
/// let chosen = kakusan_weights::choose_weights(["config.json", "diffusion_pytorch_model.fp16.safetensors"], None);
/// assert_eq!(chosen.unwrap().variant.as_deref(), Some("fp16"));
/// ```
///
/// # Errors
/// The reason, which continues "`dir` holds no weights to load: ".
pub fn choose_weights<'a>(
    names: impl IntoIterator<Item = &'a str>,
    variant: Option<&str>,
) -> Result<WeightsFile, String> {
    let names: BTreeSet<&str> = names.into_iter().collect();
    let find = |variant: Option<&str>| {
        let name = candidates(variant).into_iter().find(|name| names.contains(name.as_str()))?;
        Some(WeightsFile { name, variant: variant.map(str::to_owned) })
    };
    let variants: BTreeSet<&str> = names.iter().filter_map(|name| variant_of(name)).collect();
    let list = || variants.iter().copied().collect::<Vec<_>>().join(", ");
    if let Some(variant) = variant {
        let plain = if find(None).is_some() { "; without a variant, there are" } else { "" };
        let only = if variants.is_empty() { String::new() } else { format!(", only of {}", list()) };
        return find(Some(variant)).ok_or_else(|| format!("there are none of variant `{variant}`{only}{plain}"));
    }
    let mut only = variants.iter();
    match (find(None), only.next(), only.next()) {
        (Some(plain), ..) => Ok(plain),
        (None, Some(only), None) => find(Some(only)).ok_or_else(|| format!("{only} has no weights")),
        (None, Some(_), Some(_)) => Err(format!("there are only variants; name one of {}", list())),
        (None, None, _) => Err(nothing(&names)),
    }
}

fn nothing(names: &BTreeSet<&str>) -> String {
    let expected = format!("expected {STEM}.safetensors, its .index.json or {STEM}.bin");
    let weights = [".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".onnx", ".gguf"];
    let others: Vec<&str> =
        names.iter().copied().filter(|name| weights.iter().any(|end| name.ends_with(end))).collect();
    match others.as_slice() {
        [] => expected,
        others if others.iter().all(|name| name.starts_with(STEM) && is_shard(name)) => {
            format!("{expected}; there are shards, but their index is missing")
        }
        others => format!("{expected}; there is only {}", others.join(", ")),
    }
}

/// The variant that a file of weights, or an index, says in its name.
fn variant_of(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(STEM)?.strip_prefix('.')?;
    FORMATS.iter().find_map(|format| {
        let file = rest.strip_suffix(format).and_then(|rest| rest.strip_suffix('.'));
        let index = || {
            let rest = rest.strip_prefix(format)?;
            match rest.strip_prefix(".index.") {
                Some(rest) => rest.strip_suffix(".json"),
                None => rest.strip_prefix('.')?.strip_suffix(".index.json"),
            }
        };
        file.or_else(index).filter(|variant| is_variant(variant))
    })
}

/// Whether a word may be a variant's name: it becomes a part of file names.
pub(crate) fn is_variant(word: &str) -> bool {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !word.is_empty() && word.len() <= 64 && word.bytes().all(safe) && !is_shard(word)
}

/// Whether a name has `-00001-of-00002` or the like in it.
pub(crate) fn is_shard(name: &str) -> bool {
    let digits_before = |text: &str| text.bytes().rev().take_while(u8::is_ascii_digit).count();
    let digit_follows = |text: &str| text.bytes().next().is_some_and(|byte| byte.is_ascii_digit());
    name.match_indices("-of-").any(|(at, of)| {
        let before = digits_before(&name[..at]);
        before > 0 && name[..at - before].ends_with('-') && digit_follows(&name[at + of.len()..])
    })
}

/// Whether this is all that tells a shard's name from that of a single file: `-00001-of-00002`.
pub(crate) fn is_shard_suffix(text: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts = text.strip_prefix('-').and_then(|text| text.split_once("-of-"));
    parts.is_some_and(|(number_of, count)| number(number_of) && number(count))
}
