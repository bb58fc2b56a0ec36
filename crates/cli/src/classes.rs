//! Resolves the classes that `--class` names.

use kakusan::pipeline::{DDPMPipeline, Error, Labels, Result};

use crate::terminal::warn;

/// How many classes a message lists at most.
const NAMED: usize = 20;

/// The labels that `asked` names, one after another: classes take turns, and so do the labels of a class that has
/// several, as often as the training had images of them. `None` for a model without classes. A word is matched against
/// the class names first, then read as a number. `first..last` is a range that includes both ends, and commas separate
/// several entries.
pub(crate) fn labels(asked: &[String], pipeline: &DDPMPipeline) -> Result<Option<Vec<u32>>> {
    let Some(classes) = by_class(asked, pipeline)? else { return Ok(None) };
    let (known, count) = (pipeline.labels(), pipeline.model_config().num_classes().unwrap_or(0));
    if let Some(label) = classes.iter().flatten().find(|&&label| !known.include(label, count)) {
        warn(&format!(
            "warning: --class {label}: the training had no images of it, so its images mean nothing unless a model \
             before a fine-tuning knew it; the training had {}",
            Known::of(count, known).list()
        ));
    }
    Ok(Some(known.in_turn(&classes)))
}

/// The same, with the labels of each class.
pub(crate) fn by_class(asked: &[String], pipeline: &DDPMPipeline) -> Result<Option<Vec<Vec<u32>>>> {
    let known = pipeline.model_config().num_classes().map(|count| Known::of(count, pipeline.labels()));
    match (asked, known) {
        ([], None) => Ok(None),
        (_, None) => Err(Error::Unfit("--class: this model has no classes; omit it".into())),
        ([], Some(_)) if let Some(only) = pipeline.labels().only_class() => Ok(Some(vec![only])),
        ([], Some(known)) => {
            let (first, list) = (known.labels.names().values().next().map_or("0", String::as_str), known.list());
            Err(Error::Unfit(format!(
                "this model is conditioned on a class: name one, as in --class {first}; it has {list}"
            )))
        }
        (asked, Some(known)) => {
            let classes = asked.iter().map(|text| known.classes(text)).collect::<std::result::Result<Vec<_>, _>>();
            let refused =
                |word| Error::Unfit(format!("--class: there is no class `{word}`; this model has {}", known.list()));
            Ok(Some(classes.map_err(refused)?.concat()))
        }
    }
}

/// The classes that a model knows.
struct Known {
    /// The classes it was trained on; all of them if their names are unknown.
    labels: Labels,
    /// The number of labels, including the one that may stand for "no class".
    count: usize,
}

impl Known {
    fn of(count: usize, labels: &Labels) -> Self {
        let numbers = || Labels::new((0..count as u32).map(|label| (label, label.to_string())).collect());
        Self { labels: if labels.names().is_empty() { numbers() } else { labels.clone() }, count }
    }

    /// Parses a text into classes, each with its labels; the error is the first word that names no class.
    fn classes(&self, text: &str) -> std::result::Result<Vec<Vec<u32>>, String> {
        if let Some(labels) = self.named(text) {
            return Ok(vec![labels]); // a name may contain commas and dots
        }
        let mut classes = vec![];
        for word in text.split(',').map(|word| if self.named(word).is_some() { word } else { word.trim() }) {
            if let Some(labels) = self.labels(word) {
                classes.push(labels);
                continue;
            }
            let ends = word.split_once("..").map(|(first, last)| (first, last.trim_start_matches('=')));
            match ends.and_then(|(first, last)| Some((self.labels(first)?, self.labels(last)?))) {
                Some((first, last)) if first <= last => classes.extend(self.range(&first, &last)),
                _ => return Err(word.to_owned()),
            }
        }
        Ok(classes)
    }

    /// The classes from that of the labels `first` to that of `last`. If these are several, between them are only
    /// classes that the model was trained on.
    fn range(&self, first: &[u32], last: &[u32]) -> Vec<Vec<u32>> {
        match (first, last) {
            ([first], [last]) => (*first..=*last).map(|label| vec![label]).collect(),
            _ => {
                let classes = self.labels.by_class().into_iter().map(|(_, labels)| labels);
                classes.filter(|labels| first <= &labels[..] && &labels[..] <= last).collect()
            }
        }
    }

    fn named(&self, word: &str) -> Option<Vec<u32>> {
        let find = |is: &dyn Fn(&str) -> bool| {
            let names = self.labels.names().iter();
            let labels: Vec<u32> = names.filter(|(_, name)| is(name)).map(|(label, _)| *label).collect();
            Some(labels).filter(|labels| !labels.is_empty())
        };
        // diffusers' DiTPipeline stores several names for one class, separated by commas
        let among = |name: &str| name.split(',').any(|one| one.trim() == word);
        find(&|name| name == word).or_else(|| Some(vec![*find(&among)?.first()?]))
    }

    fn labels(&self, word: &str) -> Option<Vec<u32>> {
        let number = || word.parse().ok().filter(|&label: &u32| (label as usize) < self.count);
        self.named(word).or_else(|| Some(vec![number()?]))
    }

    /// The class names as text; if the labels are just numbered from 0, the range of numbers.
    fn list(&self) -> String {
        let names = self.labels.names();
        if (0..).zip(names).all(|(place, (label, name))| place == *label && *name == label.to_string())
            && names.len() > 2
        {
            return format!("0 to {}", names.len() - 1);
        }
        let names: Vec<&str> = self.labels.by_class().into_iter().map(|(name, _)| name).collect();
        let more = if names.len() > NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
        format!("{}{more}", names[..names.len().min(NAMED)].join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_name_before_it_is_a_number() {
        let known = |names: &[&str]| {
            let labels = Labels::new((0..).zip(names.iter().map(|&name| name.to_owned())).collect());
            Known::of(names.len() + 1, &labels)
        };
        let numbers = |count| Known::of(count, &Labels::default());
        let animals = known(&["cat", "dog", "a, b", "1", "x..y"]);
        let in_turn = |known: &Known, text: &str| known.classes(text).map(|classes| known.labels.in_turn(&classes));
        let of = |text: &str| in_turn(&animals, text);
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
        assert_eq!(in_turn(&numbers(10), "0..4,7"), Ok(vec![0, 1, 2, 3, 4, 7]));
        assert_eq!(of("5"), Ok(vec![5])); // the "no class" label of guidance
        let some = Known::of(
            12,
            &Labels::new(
                [(1, "10"), (4, "2"), (7, "tench, Tinca tinca")].map(|(label, name)| (label, name.to_owned())).into(),
            ),
        );
        assert_eq!(["2", "10", "4"].map(|text| in_turn(&some, text)), [Ok(vec![4]), Ok(vec![1]), Ok(vec![4])]);
        assert_eq!(["tench", "tench, Tinca tinca"].map(|text| in_turn(&some, text)), [Ok(vec![7]), Ok(vec![7])]);
        assert_eq!(some.list(), "10, 2, tench, Tinca tinca");
        assert_eq!([numbers(10).list(), animals.list()], ["0 to 9", "cat, dog, a, b, 1, x..y"]);
    }

    #[test]
    fn the_labels_of_a_class_take_turns() {
        let names = [(2, "1"), (3, "1"), (16, "8"), (17, "8")].map(|(label, name)| (label, name.to_owned()));
        let digits = Known::of(20, &Labels::new(names.into()));
        let of = |text: &str| digits.classes(text).map(|classes| digits.labels.in_turn(&classes));
        assert_eq!([of("8"), of("17"), of("1,8")], [Ok(vec![16, 17]), Ok(vec![17]), Ok(vec![2, 16, 3, 17])]);
        assert_eq!([of("1..8"), of("16..18")], [Ok(vec![2, 16, 3, 17]), Ok(vec![16, 17, 18])]);
        assert_eq!(digits.list(), "1, 8");
    }
}
