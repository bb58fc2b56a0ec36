//! Resolves the classes that `--class` names.

use std::collections::BTreeMap;

use kakusan::pipeline::{DDPMPipeline, Error, Result};

/// How many classes a message lists at most.
const NAMED: usize = 20;

/// The labels that `asked` names, in the same order; `None` for a model without classes. A word is matched against the
/// class names first, then read as a number. `first..last` is a range that includes both ends, and commas separate
/// several entries.
pub(crate) fn labels(asked: &[String], pipeline: &DDPMPipeline) -> Result<Option<Vec<u32>>> {
    let known = pipeline.model_config().num_classes().map(|count| Known::of(count, pipeline.class_names()));
    match (asked, known) {
        ([], None) => Ok(None),
        (_, None) => Err(Error::Unfit("--class: this model has no classes; omit it".into())),
        ([], Some(known)) => {
            let (first, list) = (known.names.values().next().map_or("0", String::as_str), known.list());
            Err(Error::Unfit(format!(
                "this model is conditioned on a class: name one, as in --class {first}; it has {list}"
            )))
        }
        (asked, Some(known)) => {
            let labels = asked.iter().map(|text| known.labels(text)).collect::<std::result::Result<Vec<_>, _>>();
            let refused =
                |word| Error::Unfit(format!("--class: there is no class `{word}`; this model has {}", known.list()));
            Ok(Some(labels.map_err(refused)?.concat()))
        }
    }
}

/// The classes that a model knows.
struct Known {
    /// The classes it was trained on; all of them if their names are unknown.
    names: BTreeMap<u32, String>,
    /// The number of labels, including the one that may stand for "no class".
    count: usize,
}

impl Known {
    fn of(count: usize, names: &BTreeMap<u32, String>) -> Self {
        let numbers = || (0..count as u32).map(|label| (label, label.to_string())).collect();
        Self { names: if names.is_empty() { numbers() } else { names.clone() }, count }
    }

    /// Parses a text into labels; the error is the first word that names no class.
    fn labels(&self, text: &str) -> std::result::Result<Vec<u32>, String> {
        if let Some(label) = self.named(text) {
            return Ok(vec![label]); // a name may contain commas and dots
        }
        let mut labels = vec![];
        for word in text.split(',').map(|word| if self.named(word).is_some() { word } else { word.trim() }) {
            let ends = word.split_once("..").map(|(first, last)| (first, last.trim_start_matches('=')));
            let (first, last) = ends.filter(|_| self.label(word).is_none()).unwrap_or((word, word));
            match (self.label(first), self.label(last)) {
                (Some(first), Some(last)) if first <= last => labels.extend(first..=last),
                _ => return Err(word.to_owned()),
            }
        }
        Ok(labels)
    }

    fn named(&self, word: &str) -> Option<u32> {
        let find = |is: &dyn Fn(&str) -> bool| self.names.iter().find(|(_, name)| is(name)).map(|(label, _)| *label);
        // diffusers' DiTPipeline stores several names for one class, separated by commas
        find(&|name| name == word).or_else(|| find(&|name| name.split(',').any(|one| one.trim() == word)))
    }

    fn label(&self, word: &str) -> Option<u32> {
        self.named(word).or_else(|| word.parse().ok().filter(|&label: &u32| (label as usize) < self.count))
    }

    /// The class names as text; if the labels are just numbered from 0, the range of numbers.
    fn list(&self) -> String {
        let all = self.names.len();
        if (0..).zip(&self.names).all(|(place, (label, name))| place == *label && *name == label.to_string()) && all > 2
        {
            return format!("0 to {}", all - 1);
        }
        let more = if all > NAMED { format!(" and {} more", all - NAMED) } else { String::new() };
        format!("{}{more}", self.names.values().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_name_before_it_is_a_number() {
        let known = |names: &[&str]| {
            let names: BTreeMap<u32, String> = (0..).zip(names.iter().map(|&name| name.to_owned())).collect();
            Known::of(names.len() + 1, &names)
        };
        let numbers = |count| Known::of(count, &BTreeMap::new());
        let animals = known(&["cat", "dog", "a, b", "1", "x..y"]);
        let of = |text: &str| animals.labels(text);
        assert_eq!(of("dog,cat"), Ok(vec![1, 0]));
        assert_eq!(of("a, b"), Ok(vec![2]));
        assert_eq!(
            [of("1"), of("2"), of("x..y"), of("x..y,0")],
            [Ok(vec![3]), Ok(vec![2]), Ok(vec![4]), Ok(vec![4, 0])]
        );
        assert_eq!([of("cat..1"), of("0..2")], [Ok(vec![0, 1, 2, 3]), Ok(vec![0, 1, 2])]);
        for (text, word) in
            [("bird", "bird"), ("cat,6", "6"), ("dog..cat", "dog..cat"), ("", ""), ("-1", "-1"), ("cat,", "")]
        {
            assert_eq!(of(text), Err(word.to_owned()), "{text}");
        }
        assert_eq!(numbers(10).labels("0..4,7"), Ok(vec![0, 1, 2, 3, 4, 7]));
        assert_eq!(of("5"), Ok(vec![5])); // the "no class" label of guidance
        let some = Known::of(
            12,
            &BTreeMap::from([(1, "10".to_owned()), (4, "2".to_owned()), (7, "tench, Tinca tinca".to_owned())]),
        );
        assert_eq!([some.labels("2"), some.labels("10"), some.labels("4")], [Ok(vec![4]), Ok(vec![1]), Ok(vec![4])]);
        assert_eq!([some.labels("tench"), some.labels("tench, Tinca tinca")], [Ok(vec![7]), Ok(vec![7])]);
        assert_eq!(some.list(), "10, 2, tench, Tinca tinca");
        assert_eq!([numbers(10).list(), animals.list()], ["0 to 9", "cat, dog, a, b, 1, x..y"]);
    }
}
