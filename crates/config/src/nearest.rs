/// The least Jaro-Winkler similarity for which one name counts as a misspelling of the other.
const ALIKE: f64 = 0.7;

/// The name in `known` that is most similar to `wrong`, if any is similar enough to be what was meant.
pub fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let alike = |name: &str| strsim::jaro_winkler(wrong, name);
    known.iter().copied().max_by(|a, b| alike(a).total_cmp(&alike(b))).filter(|name| alike(name) > ALIKE)
}

/// The end of a message about an unknown name: `; did you mean ...?`, else `; known are ...`.
///
/// ```
/// let known = ["epochs", "batch_size"];
/// assert_eq!(kakusan_config::did_you_mean("epoch", &known), "; did you mean `epochs`?");
/// assert_eq!(kakusan_config::did_you_mean("zzz", &known), "; known are epochs, batch_size");
/// ```
pub fn did_you_mean(wrong: &str, known: &[&str]) -> String {
    match nearest(wrong, known) {
        Some(name) => format!("; did you mean `{name}`?"),
        None if known.is_empty() => "; it has no keys".into(),
        None => format!("; known are {}", known.join(", ")),
    }
}
