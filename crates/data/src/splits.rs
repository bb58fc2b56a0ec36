//! Names of splits, in the spellings that Hugging Face's `datasets` accepts.

/// The splits that a folder or file may be named after, with their spellings.
const WORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// The split that a name means, by `datasets`' rule: the name contains one of the spellings, delimited by separators
/// (one of `-._ `, including the space, or a digit): `train`, `train2017`, `my-set_val.1`. Case does not matter.
pub(crate) fn split_of(name: &str) -> Option<&'static str> {
    let is_separator = |c: char| "-._ ".contains(c) || c.is_ascii_digit();
    let name = name.to_ascii_lowercase();
    let mut words = name.split(is_separator).filter(|word| !word.is_empty());
    words.find_map(|word| WORDS.iter().find(|(_, known)| known.contains(&word)).map(|(split, _)| *split))
}

#[cfg(test)]
mod tests {
    use super::split_of;

    #[test]
    fn datasets_spellings() {
        for (split, names) in [
            (
                "train",
                &["train", "training", "Train", "TRAINING", "train2017", "train_1", "my-train", "a.train b", "0train"]
                    [..],
            ),
            ("validation", &["validation", "valid", "dev", "val", "val2017", "dev-0", "set_val.png"]),
            ("test", &["test", "testing", "eval", "evaluation", "test-a", "2019 test"]),
        ] {
            for name in names {
                assert_eq!(split_of(name), Some(split), "{name}");
            }
        }
        for name in ["trains", "contest", "latest", "development", "cat", "", "constrain", "evals", "testset"] {
            assert_eq!(split_of(name), None, "{name}");
        }
    }
}
