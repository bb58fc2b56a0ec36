//! The results as Markdown, the same for the terminal and the file.

use std::fmt::Write;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use super::measure::{LAYOUTS, Measured, Row};
use super::options::Options;
use super::stats::Summary;
use super::whole::Whole;
use crate::machine;

/// The text above all tables.
pub(crate) fn heading(options: &Options, measured: &[Measured]) -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let rustc = machine::first_line(Command::new(rustc).arg("--version")).unwrap_or_default();
    let torch: Vec<&str> =
        measured.iter().flat_map(|m| &m.pytorch).filter(|(k, _)| k == "torch").map(|(_, v)| &**v).collect();
    let mut text = String::from("# Performance\n\n");
    let _ = writeln!(text, "- measured: {} (UTC)", today());
    let (processor, vectors) = (machine::processor(), machine::vector_instructions());
    let _ = writeln!(text, "- machine: {processor}, {threads} threads, {vectors}; {}", machine::system());
    let _ = writeln!(text, "- built with: {rustc}");
    if let Some(torch) = torch.first() {
        let _ = writeln!(text, "- compared with: PyTorch {torch}");
    }
    let _ = write!(text, "- measure again: `{}`\n\n", options.command());
    text.push_str(
        "Milliseconds are medians; the noise, in parentheses, is the interquartile range in % of the median. GFLOP/s count the\n\
         operations of the direct method, whatever method the kernel uses; the peak is the rate of multiply-adds in registers.\n",
    );
    if options.against_pytorch {
        text.push_str(
            "Kakusan and PyTorch take turns, one round each. The ratio is Kakusan's time divided by that of PyTorch's best\n\
             layout; below 1, Kakusan is faster. A single operation includes the conversion from candle's layout to ours and\n\
             back, which a network does once for all its operations, so cheap operations look slow here.\n",
        );
    }
    text
}

/// The section of one setting.
pub(crate) fn section(measured: &Measured, whole: &[Whole]) -> String {
    let mut text = format!("## {}\n", capitalised(&measured.setting.title()));
    if let Some(peak) = measured.peak {
        let _ = writeln!(text, "\nMeasured peak: {peak:.0} GFLOP/s.");
    }
    let is_model = |row: &&Row| crate::bench::is_model(&row.item.name);
    let (models, ops): (Vec<&Row>, Vec<&Row>) = measured.rows.iter().partition(is_model);
    for (title, rows) in [("Training steps and sampling", models), ("Operations", ops)] {
        if !rows.is_empty() {
            let _ = write!(text, "\n### {title}\n\n{}", work_table(&rows, measured.peak));
        }
    }
    if !whole.is_empty() {
        let _ = write!(text, "\n### All of configs/184.toml on MNIST, pictures included\n\n{}", whole_table(whole));
    }
    if !measured.notes.is_empty() {
        text.push('\n');
        measured.notes.iter().for_each(|note| text.push_str(&format!("- {note}\n")));
    }
    text
}

fn work_table(rows: &[&Row], peak: Option<f64>) -> String {
    let layouts: Vec<usize> = (0..LAYOUTS.len()).filter(|&i| rows.iter().any(|row| row.pytorch[i].is_some())).collect();
    let mut head: Vec<String> = ["", "Kakusan ms", "GFLOP/s", "of peak"].map(str::to_owned).to_vec();
    head.extend(layouts.iter().map(|&i| format!("PyTorch {} ms", LAYOUTS[i])));
    if !layouts.is_empty() {
        head.push("ratio".into());
    }
    let mut cells = vec![head];
    for row in rows {
        let speed = row.item.flops.zip(row.kakusan).map(|(flops, kakusan)| flops / kakusan.median / 1e6);
        let share = speed.zip(peak).map(|(speed, peak)| 100.0 * speed / peak);
        let mut line = vec![row.item.name.clone(), time(row.kakusan)];
        line.push(or_dash(speed.map(|speed| format!("{speed:.1}"))));
        line.push(or_dash(share.map(|share| format!("{share:.1} %"))));
        line.extend(layouts.iter().map(|&i| time(row.pytorch[i])));
        if !layouts.is_empty() {
            line.push(or_dash(ratio(row).map(|ratio| format!("{ratio:.2}"))));
        }
        cells.push(line);
    }
    table(&cells)
}

/// Kakusan's median divided by that of PyTorch's best layout.
fn ratio(row: &Row) -> Option<f64> {
    let best = row.pytorch.iter().flatten().map(|summary| summary.median).min_by(f64::total_cmp)?;
    Some(row.kakusan?.median / best)
}

fn whole_table(whole: &[Whole]) -> String {
    let head = ["", "seconds", "rounds", "peak memory MiB"].map(str::to_owned).to_vec();
    let line = |of: &Whole| {
        let Summary { median, noise, rounds, .. } = of.seconds;
        let peak = or_dash(of.peak_mib.map(|peak| format!("{peak:.0}")));
        vec![of.title.to_owned(), format!("{median:.1} ({noise:.1} %)"), rounds.to_string(), peak]
    };
    let mut cells = vec![head];
    cells.extend(whole.iter().map(line));
    if let [ours, theirs] = whole {
        let memory = ours.peak_mib.zip(theirs.peak_mib).map(|(ours, theirs)| format!("{:.2}", ours / theirs));
        let time = format!("{:.2}", ours.seconds.median / theirs.seconds.median);
        cells.push(vec!["ratio".into(), time, String::new(), or_dash(memory)]);
    }
    table(&cells)
}

fn time(summary: Option<Summary>) -> String {
    or_dash(summary.map(|Summary { median, noise, .. }| format!("{median:.2} ({noise:.1} %)")))
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "–".into())
}

/// A Markdown table. The first row is the head; all columns but the first are right-aligned.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let Some(head) = rows.first() else { return String::new() };
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0).max(3)).collect();
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if column == 0 { write!(text, "| {cell:<width$} |") } else { write!(text, " {cell:>width$} |") };
        }
        text.push('\n');
        if i == 0 {
            for (column, width) in widths.iter().enumerate() {
                let dashes = "-".repeat(*width);
                let _ = if column == 0 { write!(text, "| {dashes} |") } else { write!(text, " {}: |", &dashes[1..]) };
            }
            text.push('\n');
        }
    }
    text
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

/// The date in UTC.
pub(crate) fn today() -> String {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    date(days as i64)
}

/// The date of a number of days since 1970-01-01 (Howard Hinnant's civil_from_days).
pub(crate) fn date(days: i64) -> String {
    let shifted = days + 719_468; // days since 0000-03-01
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // from March
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{}-{month:02}-{day:02}", year + era * 400 + next)
}

#[cfg(test)]
mod tests {
    use super::super::options::Setting;
    use super::super::worker::Item;
    use super::*;

    fn row(name: &str, flops: Option<f64>, kakusan: f64, pytorch: [Option<f64>; 3]) -> Row {
        let summary = |median| Summary { median, least: median, noise: 2.0, rounds: 7 };
        let item = Item { name: name.into(), flops };
        Row { item, kakusan: Some(summary(kakusan)), pytorch: pytorch.map(|median| median.map(summary)) }
    }

    #[test]
    fn a_section_is_complete_and_aligned() {
        let rows = vec![
            row("silu", Some(1e6), 0.5, [Some(1.0), Some(0.25), None]),
            row("step a.toml b4", None, 10.0, [Some(20.0), Some(40.0), Some(15.0)]),
        ];
        let setting = Setting { threads: 1, avx2: false };
        let notes = vec!["A note.".to_owned()];
        let measured = Measured { setting, rows, notes, pytorch: vec![], peak: Some(10.0), disturbed: false };
        let expected = "\
## 1 thread

Measured peak: 10 GFLOP/s.

### Training steps and sampling

|                |    Kakusan ms | GFLOP/s | of peak | PyTorch nchw ms | PyTorch channels-last ms | PyTorch compiled ms | ratio |
| -------------- | ------------: | ------: | ------: | --------------: | -----------------------: | ------------------: | ----: |
| step a.toml b4 | 10.00 (2.0 %) |       – |       – |   20.00 (2.0 %) |            40.00 (2.0 %) |       15.00 (2.0 %) |  0.67 |

### Operations

|      |   Kakusan ms | GFLOP/s | of peak | PyTorch nchw ms | PyTorch channels-last ms | ratio |
| ---- | -----------: | ------: | ------: | --------------: | -----------------------: | ----: |
| silu | 0.50 (2.0 %) |     2.0 |  20.0 % |    1.00 (2.0 %) |             0.25 (2.0 %) |  2.00 |

- A note.
";
        assert_eq!(section(&measured, &[]), expected);
    }

    #[test]
    fn whole_trainings_are_compared() {
        let summary = |median| Summary { median, least: median, noise: 0.0, rounds: 1 };
        let ours = Whole { title: "Kakusan", seconds: summary(60.0), peak_mib: Some(150.0) };
        let theirs = Whole { title: "PyTorch", seconds: summary(120.0), peak_mib: None };
        let text = whole_table(&[ours, theirs]);
        assert!(text.ends_with("| ratio   |          0.50 |        |               – |\n"), "{text}");
    }

    #[test]
    fn dates() {
        assert_eq!([0, 59, 11_016, 20_782].map(date), ["1970-01-01", "1970-03-01", "2000-02-29", "2026-11-25"]);
    }
}
