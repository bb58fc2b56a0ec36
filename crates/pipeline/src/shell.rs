//! Commands that somebody is to type, as a shell takes them.

use std::path::Path;

use crate::RunConfig;

/// A word as a POSIX shell takes it: in quotes where it needs them.
///
/// ```
/// use kakusan_pipeline::quote;
///
/// assert_eq!(["runs/184", "", "a b", "it's"].map(quote), ["runs/184", "''", "'a b'", r"'it'\''s'"]);
/// ```
pub fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// A path as a shell and the command take it, which would else take `-x` for an option.
pub fn quote_path(path: &Path) -> String {
    let path = path.to_string_lossy();
    quote(&if path.starts_with('-') { format!("./{path}") } else { path.into_owned() })
}

/// The command that draws from a run what its `[sample]` says, with `seed`: the run's own pictures with the run's seed.
/// `classes` are the labels that took turns there, none where the model does not know classes.
pub(crate) fn sample_command(program: &str, model: &str, config: &RunConfig, classes: &[u32], seed: u64) -> String {
    let sample = &config.sample;
    let mut words = vec![format!("{program} sample --model {model}")];
    words.extend(sample.scheduler.as_ref().map(|name| format!("--scheduler {}", quote(name))));
    words.extend(sample.eta.map(|eta| format!("--eta {eta}")));
    if !classes.is_empty() {
        words.push(format!("--class {}", ranges(classes)));
        words.extend(sample.guidance_scale.map(|scale| format!("--guidance={scale}"))); // it may be below 0
    }
    words
        .push(format!("--steps {} --batch {} --seed {seed} --out samples-{seed}.png", sample.steps, sample.batch_size));
    words.join(" ")
}

/// Rising numbers in short: `0..9,12`.
fn ranges(numbers: &[u32]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b).filter_map(|run| Some((run.first()?, run.last()?)));
    let words = runs.map(|(first, last)| if first == last { first.to_string() } else { format!("{first}..{last}") });
    words.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_row_are_a_range() {
        assert_eq!([&[3][..], &[0, 1, 2], &[1, 4, 5, 8]].map(ranges), ["3", "0..2", "1,4..5,8"]);
    }

    #[test]
    fn a_path_is_no_option() {
        assert_eq!(["-x", "runs/1 8", "ünd"].map(|path| quote_path(Path::new(path))), ["./-x", "'runs/1 8'", "'ünd'"]);
    }
}
