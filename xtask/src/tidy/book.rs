//! What `tidy` checks of the book in `docs/book`, and of the links of all documents.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Where the pages are.
const PAGES: &str = "docs/book/src";
/// The language whose code is run by doc tests, and the others.
const ENGLISH: &str = "en";
const OTHERS: [&str; 1] = ["ja"];
/// The file that includes the English pages as doc tests.
const DOC_TESTS: &str = "crates/kakusan/src/lib.rs";

/// Pages that a language, the table of contents or the doc tests lack, and code that differs between languages.
pub(super) fn problems(root: &Path) -> std::io::Result<Vec<String>> {
    let pages = |language: &str| -> std::io::Result<BTreeSet<String>> {
        let files = fs::read_dir(root.join(PAGES).join(language))?;
        files.map(|file| Ok(file?.file_name().to_string_lossy().into_owned())).collect()
    };
    let contents = fs::read_to_string(root.join(PAGES).join("SUMMARY.md"))?;
    let doc_tests = fs::read_to_string(root.join(DOC_TESTS))?;
    let mut problems = vec![];
    let english = pages(ENGLISH)?;
    for page in &english {
        if !doc_tests.contains(&format!("\"{page}\"")) {
            problems.push(format!("{DOC_TESTS}: the book's {page} is missing"));
        }
    }
    for language in [ENGLISH].into_iter().chain(OTHERS) {
        let own = pages(language)?;
        for page in english.symmetric_difference(&own) {
            problems.push(format!("{PAGES}: {page} is in one of {ENGLISH} and {language} alone"));
        }
        for page in own.iter().filter(|page| !contents.contains(&format!("({language}/{page})"))) {
            problems.push(format!("{PAGES}/SUMMARY.md: {language}/{page} is missing"));
        }
        for page in own.intersection(&english) {
            let path = |language: &str| format!("{PAGES}/{language}/{page}");
            let read = |language: &str| fs::read_to_string(root.join(path(language)));
            problems.extend(other_code(&path(language), &read(language)?, &read(ENGLISH)?));
        }
    }
    Ok(problems)
}

/// Code blocks of a translation that differ from those of the original in more than their comments.
fn other_code(path: &str, text: &str, original: &str) -> Vec<String> {
    let (own, original) = (code(text), code(original));
    let mut problems = vec![];
    if own.len() != original.len() {
        problems.push(format!("{path}: {} code blocks, but {} in the original", own.len(), original.len()));
    }
    for (i, (own, original)) in own.iter().zip(&original).enumerate() {
        if let Some((own, original)) = own.iter().zip(original).find(|(own, original)| own != original) {
            problems.push(format!("{path}: code block {}: `{own}`, but `{original}` in the original", i + 1));
        } else if own.len() != original.len() {
            problems.push(format!("{path}: code block {} has {} lines, not {}", i + 1, own.len(), original.len()));
        }
    }
    problems
}

/// The code blocks of a document: the line that names the language, and the code without comments. Of plain text, which
/// may be translated, only the number of lines.
fn code(text: &str) -> Vec<Vec<String>> {
    let mut blocks: Vec<Vec<String>> = vec![];
    let (mut within, mut comment) = (false, None);
    for line in text.lines() {
        if let Some(language) = line.strip_prefix("```") {
            within = !within;
            if within {
                comment = match language.split(',').next() {
                    Some("rust") => Some("//"),
                    Some("sh" | "toml" | "python") => Some("#"),
                    _ => None,
                };
                blocks.push(vec![language.to_owned()]);
            }
        } else if let Some(block) = blocks.last_mut().filter(|_| within) {
            let code = comment.map_or("", |sign| line.split(sign).next().unwrap_or_default());
            block.push(code.trim_end().to_owned());
        }
    }
    blocks
}

/// Relative links and pictures of a document that lead nowhere.
pub(super) fn dead_links(path: &str, text: &str, root: &Path) -> Vec<String> {
    let dir = root.join(path).parent().map(Path::to_owned).unwrap_or_default();
    let (mut problems, mut code) = (vec![], false);
    for (number, line) in text.lines().enumerate() {
        code ^= line.trim_start().starts_with("```");
        // in a link, `](` is followed by the target
        for rest in line.split("](").skip(1).filter(|_| !code) {
            let target = rest.split([')', '#', ' ']).next().unwrap_or_default();
            let is_relative = !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:");
            if is_relative && !dir.join(target).exists() {
                problems.push(format!("{path}:{}: `{target}` does not exist", number + 1));
            }
        }
    }
    problems
}

/// Commands `cargo xtask VERB` in a document's shell code whose verb is not in `help`.
pub(super) fn unknown_verbs(path: &str, text: &str, help: &str) -> Vec<String> {
    let verbs: BTreeSet<&str> = help
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .flat_map(|line| line.split(' ').next().unwrap_or_default().split('|'))
        .filter(|verb| !verb.is_empty())
        .collect();
    let mut problems = vec![];
    for (number, line) in text.lines().enumerate() {
        let verb = line.strip_prefix("cargo xtask ").and_then(|rest| rest.split_whitespace().next());
        if let Some(verb) = verb.filter(|verb| !verb.contains('|') && !verbs.contains(verb)) {
            problems.push(format!("{path}:{}: there is no `cargo xtask {verb}`", number + 1));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_code_of_a_translation_is_seen() {
        let english = "```rust\nlet x = 1; // one\n# hidden();\n```\ntext\n```sh\nls # list\n```\n```text\na\n```\n";
        let translated = "```rust\nlet x = 1; // 一\n# hidden();\n```\n```sh\nls # 一覧\n```\n```text\nあ\n```\n";
        assert_eq!(other_code("a.md", translated, english), Vec::<String>::new());
        assert_eq!(other_code("a.md", &translated.replace("x = 1", "x = 2"), english).len(), 1);
        assert_eq!(other_code("a.md", &translated.replace("# hidden();\n", ""), english).len(), 1);
        assert_eq!(other_code("a.md", &translated.replace("```sh\nls # 一覧\n```\n", ""), english).len(), 2);
    }

    #[test]
    fn dead_links_and_unknown_verbs_are_seen() {
        let found = |text: &str| dead_links("docs/results.md", text, &crate::root()).len();
        assert_eq!(found("[a](runs/results.tsv), [b](https://x.org/y) and [c](../README.md#what-it-is)"), 0);
        assert_eq!(found("![a](images/none.png) and [b](../README)"), 2);
        assert_eq!(found("```text\n[a](none.md)\n```"), 0);
        let unknown = |line: &str| unknown_verbs("a.md", line, crate::HELP).len();
        assert_eq!(unknown("cargo xtask train --config x\ncargo xtask doctor\ncargo xtask ci --help"), 0);
        assert_eq!(unknown("cargo xtask trian --config x"), 1);
    }
}
