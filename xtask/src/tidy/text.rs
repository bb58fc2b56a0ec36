//! What `tidy` checks in comments and documents.

use std::path::Path;

/// The widest line of a comment or a document, in characters.
const MAX_WIDTH: usize = 120;

/// Words and phrases that are not English of the field, with what to say instead.
const HOUSE_WORDS: &[(&str, &str)] = &[
    ("anew", "again"),
    ("nobody", "name the agent"),
    ("whoever", "name the agent"),
    ("what it lacks", "name it"),
    ("the way back", "the backward pass"),
    ("there and back", "forward and backward"),
    ("whole or not at all", "atomically"),
    ("go on with", "continue, resume"),
    ("Go on with", "Continue, Resume"),
    ("goes on with", "continues, resumes"),
    ("going on with", "continuing, resuming"),
    ("gone on with", "continued, resumed"),
    ("leave it away", "remove it"),
    ("take it out", "remove it"),
    ("taken for meant", "accepted"),
    ("passed over", "ignored, skipped"),
    ("Storyteller", "report"),
];

/// Comments that are too wide, and house words in comments and messages.
pub(super) fn source(path: &str, text: &str) -> Vec<String> {
    let mut problems = vec![];
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("//") && line.chars().count() > MAX_WIDTH {
            problems.push(format!("{path}:{}: a comment of more than {MAX_WIDTH} columns", number + 1));
        }
        if line.contains("//") || line.contains('"') {
            problems.extend(house_words(path, number, line));
        }
    }
    problems
}

/// Lines of a Markdown document that are too wide (except tables, code and images), and house words.
pub(super) fn document(path: &str, text: &str) -> Vec<String> {
    let mut problems = vec![];
    let mut code = false;
    for (number, line) in text.lines().enumerate() {
        code ^= line.trim_start().starts_with("```");
        let wide = line.chars().count() > MAX_WIDTH;
        if wide && !code && !line.starts_with(['|', '!']) {
            problems.push(format!("{path}:{}: a line of more than {MAX_WIDTH} columns", number + 1));
        }
        problems.extend(house_words(path, number, line));
    }
    problems
}

fn house_words(path: &str, number: usize, line: &str) -> Vec<String> {
    let is_word = |at: usize, word: &str| {
        let (before, after) = (line[..at].chars().next_back(), line[at + word.len()..].chars().next());
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    };
    let found = HOUSE_WORDS.iter().filter(|(word, _)| line.match_indices(word).any(|(at, _)| is_word(at, word)));
    found.map(|(word, better)| format!("{path}:{}: `{word}`; say: {better}", number + 1)).collect()
}

/// Files in backticks that do not exist: words that begin with a folder of the root, and names of Rust files. They are
/// paths from the root or the end of one of the paths in `files`.
pub(super) fn missing_files(path: &str, text: &str, root: &Path, files: &[String]) -> Vec<String> {
    let mut problems = vec![];
    for (number, line) in text.lines().enumerate() {
        for word in line.split('`').skip(1).step_by(2) {
            let is_path = !word.contains(|c: char| c.is_whitespace() || "<>*{}$:".contains(c));
            let first = word.split('/').next().unwrap_or_default();
            let named = word.contains('/') && !first.is_empty() && root.join(first).is_dir() || word.ends_with(".rs");
            let exists = root.join(word).exists() || files.iter().any(|file| file.ends_with(&format!("/{word}")));
            if is_path && named && !exists {
                problems.push(format!("{path}:{}: `{word}` does not exist", number + 1));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_lines_and_house_words_are_seen() {
        let wide = "x".repeat(MAX_WIDTH);
        assert_eq!(source("a.rs", &format!("// {wide}\nlet x = \"{wide}\";\n")).len(), 1);
        assert_eq!(document("a.md", &format!("{wide}y\n| {wide} |\n```text\n{wide}y\n```\n")).len(), 1);
        assert_eq!(source("a.rs", "/// Begins anew.\nlet anew = 1;\n").len(), 1);
        assert_eq!(source("a.rs", "/// A renewed `anewton`.\n").len(), 0);
        assert_eq!(document("a.md", "Nothing is passed over.\n").len(), 1);
    }

    #[test]
    fn missing_files_are_seen() {
        let (root, files) = (crate::root(), ["crates/rng/src/normal.rs".to_owned()]);
        let found = |text: &str| missing_files("a.md", text, &root, &files).len();
        assert_eq!(found("`crates/rng/src/lib.rs`, `xtask`, `normal.rs` and `src/normal.rs`"), 0);
        assert_eq!(found("`crates/rng/src/none.rs`"), 1);
        assert_eq!(found("`none.rs`"), 1);
        assert_eq!(found("`nowhere/none`, `train|sample`, `crates/{rng,ops}`"), 0);
    }
}
