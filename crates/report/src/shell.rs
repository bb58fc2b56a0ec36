//! Commands for the user to type, quoted for a shell.

use std::path::Path;

use kakusan_pipeline::RunConfig;

/// Quotes a word for a POSIX shell if it needs quotes.
///
/// ```
/// use kakusan_report::quote;
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

/// Quotes a path for a shell, and protects one such as `-x`, which the command would take for an option.
pub fn quote_path(path: &Path) -> String {
    let path = path.to_string_lossy();
    quote(&if path.starts_with('-') { format!("./{path}") } else { path.into_owned() })
}

/// The command that samples from a run as its `[sample]` says, with `seed`; the run's own seed gives the run's
/// pictures. `classes` are the classes that took turns, with their places; empty for a model without classes.
pub(crate) fn sample_command(
    program: &str,
    model: &str,
    config: &RunConfig,
    classes: &[(u32, String)],
    seed: u64,
) -> String {
    let sample = &config.sample;
    let mut words = vec![format!("{program} sample --model {model}")];
    words.extend(sample.scheduler.as_ref().map(|name| format!("--scheduler {}", quote(name))));
    words.extend(sample.eta.map(|eta| format!("--eta {eta}")));
    if !classes.is_empty() {
        words.push(class_options(classes));
        words.extend(sample.guidance_scale.map(|scale| format!("--guidance={scale}"))); // the scale may be negative
        words.extend(sample.guidance_interval.map(|[low, high]| format!("--guidance-interval {low} {high}")));
        words.extend(sample.guidance_rescale.map(|share| format!("--guidance-rescale {share}")));
    }
    words
        .push(format!("--steps {} --batch {} --seed {seed} --out samples-{seed}.png", sample.steps, sample.batch_size));
    words.join(" ")
}

/// The options `--class` that name all of these classes, which have their places among the model's classes, in
/// ascending order.
pub fn class_options(classes: &[(u32, String)]) -> String {
    let option = |word: String| match word.starts_with('-') {
        true => format!("--class={}", quote(&word)),
        false => format!("--class {}", quote(&word)),
    };
    class_words(classes).into_iter().map(option).collect::<Vec<_>>().join(" ")
}

/// Classes as `--class` accepts them. Consecutive numbers are abbreviated, `0..9,12`; if a name contains a comma, the
/// entries are separate words.
fn class_words(classes: &[(u32, String)]) -> Vec<String> {
    let number = |(_, name): &(u32, String)| name.parse::<u32>().ok().filter(|number| number.to_string() == *name);
    let in_a_row = |a: &(u32, String), b: &(u32, String)| {
        a.0.checked_add(1) == Some(b.0) && number(a).zip(number(b)).is_some_and(|(a, b)| a.checked_add(1) == Some(b))
    };
    let runs = classes.chunk_by(in_a_row).filter_map(|run| Some((&run.first()?.1, &run.last()?.1)));
    let words = runs.map(|(first, last)| if first == last { first.clone() } else { format!("{first}..{last}") });
    match classes.iter().any(|(_, name)| name.contains(',')) {
        true => words.collect(),
        false => vec![words.collect::<Vec<_>>().join(",")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_named_and_numbers_in_a_row_are_a_range() {
        let words = |names: &[(u32, &str)]| -> Vec<String> {
            class_words(&names.iter().map(|&(label, name)| (label, name.to_owned())).collect::<Vec<_>>())
        };
        assert_eq!(words(&[(3, "3")]), ["3"]);
        assert_eq!(words(&[(0, "0"), (1, "1"), (2, "2"), (5, "5")]), ["0..2,5"]);
        assert_eq!(words(&[(0, "3"), (2, "4"), (3, "05")]), ["3,4,05"]); // there is another class between the first two
        assert_eq!(words(&[(0, "a cat"), (1, "dog")]), ["a cat,dog"]);
        assert_eq!(words(&[(0, "a, b"), (1, "dog")]), ["a, b", "dog"]);
    }

    #[test]
    fn a_path_is_no_option() {
        assert_eq!(["-x", "runs/1 8", "ünd"].map(|path| quote_path(Path::new(path))), ["./-x", "'runs/1 8'", "'ünd'"]);
    }
}
