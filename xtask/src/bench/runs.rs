//! The runs that are kept, as docs/runs/DATE-PROCESSOR.md. docs/performance.md is the newest one, with what changed
//! since the one before on the same processor.

use std::fs;
use std::io::Result;
use std::path::{Path, PathBuf};

use super::report::table;

/// Keeps the text of a run, beside those of the same day.
pub(crate) fn keep(runs: &Path, date: &str, processor: &str, text: &str) -> Result<PathBuf> {
    fs::create_dir_all(runs)?;
    let name = format!("{date}-{}", slug(processor));
    let names = std::iter::once(format!("{name}.md")).chain((2..).map(|n| format!("{name}-{n}.md")));
    let file = names.map(|name| runs.join(name)).find(|file| !file.exists()).unwrap_or_default();
    fs::write(&file, text)?;
    Ok(file)
}

/// The page of the newest run that is kept; `None` if there is none.
pub(crate) fn page(runs: &Path) -> Result<Option<String>> {
    let kept = kept(runs)?;
    let Some((newest, earlier)) = kept.split_last() else { return Ok(None) };
    let text = fs::read_to_string(runs.join(&newest.file))?;
    let mut page = text.clone();
    if let Some(before) = earlier.iter().rev().find(|run| run.processor == newest.processor) {
        page += &changes(&before.date, &fs::read_to_string(runs.join(&before.file))?, &text);
    }
    if !earlier.is_empty() {
        page += "\n## Earlier runs\n\n";
        for Run { file, date, processor } in earlier.iter().rev() {
            page += &format!("- [{date}, {processor}](runs/{file})\n");
        }
    }
    Ok(Some(page))
}

/// A run that is kept, by its file's name.
#[derive(Debug, PartialEq)]
struct Run {
    file: String,
    date: String,
    processor: String,
}

/// The kept runs, the newest last.
fn kept(runs: &Path) -> Result<Vec<Run>> {
    let mut kept = vec![];
    for entry in fs::read_dir(runs).into_iter().flatten() {
        kept.extend(run(entry?.file_name().to_string_lossy().into_owned()));
    }
    kept.sort_by(|a, b| (&a.date, a.file.len(), &a.file).cmp(&(&b.date, b.file.len(), &b.file)));
    Ok(kept)
}

/// `2026-11-25-amd-epyc.md`, or the second one of that day, `2026-11-25-amd-epyc-2.md`; other files are no runs.
fn run(file: String) -> Option<Run> {
    let stem = file.strip_suffix(".md")?;
    let (date, processor) = stem.split_at_checked(11)?;
    let date = date.strip_suffix('-')?;
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let is_date = date.split('-').map(str::len).eq([4, 2, 2]) && date.split('-').all(digits);
    let processor = processor.rsplit_once('-').filter(|(_, number)| digits(number)).map_or(processor, |(name, _)| name);
    let (date, processor) = (date.to_owned(), processor.to_owned());
    (is_date && !processor.is_empty()).then_some(Run { file, date, processor })
}

/// A name as a part of a file's name.
fn slug(name: &str) -> String {
    let words = name.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

/// What both runs measured, beside each other.
fn changes(date: &str, before: &str, now: &str) -> String {
    let (before, now) = (medians(before), medians(now));
    let mut text = String::new();
    for (section, items) in &now {
        let mut rows = vec![["", "before ms", "now ms", "now / before"].map(str::to_owned).to_vec()];
        for (name, now) in items {
            let same = before.iter().find(|(title, _)| title == section).map(|(_, items)| items);
            if let Some((_, before)) = same.and_then(|items| items.iter().find(|(other, _)| other == name)) {
                let cells = [name.clone(), format!("{before:.2}"), format!("{now:.2}"), format!("{:.2}", now / before)];
                rows.push(cells.to_vec());
            }
        }
        if rows.len() > 1 {
            text += &format!("\n### {section}\n\n{}", table(&rows));
        }
    }
    if text.is_empty() { text } else { format!("\n## Change since {date}\n{text}") }
}

type Items = Vec<(String, f64)>;

/// Kakusan's medians in the text of a run: of each section the items and their milliseconds.
fn medians(text: &str) -> Vec<(String, Items)> {
    let mut sections: Vec<(String, Items)> = vec![];
    let mut is_whole = false; // seconds, not milliseconds
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            sections.push((title.to_owned(), vec![]));
        }
        is_whole = line.strip_prefix("### ").map_or(is_whole, |title| title.starts_with("All of "));
        let mut cells = line.split('|').skip(1).map(str::trim);
        if let (Some((_, items)), Some(name), Some(ms)) = (sections.last_mut(), cells.next(), cells.next())
            && let Some(Ok(ms)) = ms.split_whitespace().next().map(str::parse)
            && !is_whole
        {
            items.push((name.to_owned(), ms));
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_kept_and_the_newest_is_shown() {
        let runs = std::env::temp_dir().join(format!("kakusan-runs-{}", std::process::id()));
        let text = |ms: &str| format!("# Performance\n\n## 2 threads\n\n|  | Kakusan ms |\n| silu | {ms} (1.0 %) |\n");
        let name = |file: PathBuf| file.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(page(&runs).unwrap(), None);
        assert_eq!(name(keep(&runs, "2026-11-25", "AMD EPYC", &text("2.00")).unwrap()), "2026-11-25-amd-epyc.md");
        assert_eq!(page(&runs).unwrap().unwrap(), text("2.00"));
        assert_eq!(name(keep(&runs, "2026-11-25", "AMD EPYC", &text("4.00")).unwrap()), "2026-11-25-amd-epyc-2.md");
        keep(&runs, "2026-11-26", "Some (R) CPU @ 2.2GHz", &text("3.00")).unwrap();
        keep(&runs, "2026-11-30", "AMD EPYC", &text("1.00")).unwrap();
        fs::write(runs.join("2026-11-30-results.jsonl"), "").unwrap();
        let page = page(&runs).unwrap().unwrap();
        let expected = "
## Change since 2026-11-25

### 2 threads

|      | before ms | now ms | now / before |
| ---- | --------: | -----: | -----------: |
| silu |      4.00 |   1.00 |         0.25 |

## Earlier runs

- [2026-11-26, some-r-cpu-2-2ghz](runs/2026-11-26-some-r-cpu-2-2ghz.md)
- [2026-11-25, amd-epyc](runs/2026-11-25-amd-epyc-2.md)
- [2026-11-25, amd-epyc](runs/2026-11-25-amd-epyc.md)
";
        assert_eq!(page, text("1.00") + expected);
        fs::remove_dir_all(runs).unwrap();
    }

    #[test]
    fn whole_trainings_and_other_text_are_no_items() {
        let text = "- measured: 1\n## 1 thread\n| a b | 1.50 (2 %) | 3 |\n| --- | ---: |\n| c | – |\n\
                    ### All of configs/184.toml\n| Kakusan | 39.1 |\n## 2 threads\n### Operations\n| a b | 1 |\n";
        let expected = [("1 thread", vec![("a b", 1.5)]), ("2 threads", vec![("a b", 1.0)])];
        let own = |(name, ms): &(&str, f64)| ((*name).to_owned(), *ms);
        let expected: Vec<(String, Items)> =
            expected.iter().map(|(title, items)| ((*title).to_owned(), items.iter().map(own).collect())).collect();
        assert_eq!(medians(text), expected);
    }

    #[test]
    fn only_dated_files_are_runs() {
        let is_run = |name: &str| run(name.to_owned()).map(|run| (run.date, run.processor));
        assert_eq!(is_run("2026-11-25-amd-epyc-12.md"), Some(("2026-11-25".into(), "amd-epyc".into())));
        for other in ["results.jsonl", "2026-11-25.md", "2026-11-2x-amd.md", "notes-on-something.md", "2026-11-25-.md"]
        {
            assert_eq!(is_run(other), None, "{other}");
        }
    }

    #[test]
    fn the_page_is_that_of_the_newest_run() {
        let docs = crate::root().join("docs");
        let page = page(&docs.join("runs")).unwrap().unwrap();
        assert!(fs::read_to_string(docs.join("performance.md")).unwrap() == page, "write it: cargo xtask bench --page");
    }
}
