//! The results as Markdown.

use std::fmt;
use std::fmt::Write;

use super::Outcome;
use super::measure::LAYOUTS;
use crate::bench::report::table;
use crate::bench::stats::Summary;
use crate::bench::worker::Item;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Card {
    name: String,
    driver: String,
    memory: String,
    capability: String,
}

impl Card {
    /// From a line of nvidia-smi: name, driver, memory, compute capability.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let parts: Vec<&str> = line.split(',').map(str::trim).collect();
        let [name, driver, memory, capability] = parts.as_slice().try_into().ok()?;
        let [name, driver, memory, capability] = [name, driver, memory, capability].map(|part: &str| part.to_owned());
        Some(Self { name, driver, memory, capability })
    }
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { name, driver, memory, capability } = self;
        write!(f, "{name}, {memory}, compute capability {capability}, driver {driver}")
    }
}

pub(crate) struct Row {
    pub(crate) item: Item,
    pub(crate) kakusan: Option<Summary>,
    pub(crate) pytorch: [Option<Summary>; LAYOUTS.len()],
    /// Of Kakusan and of PyTorch, in MiB.
    pub(crate) memory: [Option<u64>; 2],
}

pub(crate) struct Timings {
    pub(crate) torch: Option<String>,
    /// In GFLOP/s.
    pub(crate) peak: Option<f64>,
    pub(crate) rows: Vec<Row>,
    pub(crate) notes: Vec<String>,
}

pub(crate) fn page(date: &str, card: &Card, outcomes: &[Outcome], timings: Option<&Timings>, command: &str) -> String {
    let mut text = format!("# On a CUDA card\n\n- checked: {date} (UTC)\n- card: {card}\n");
    if let Some(torch) = timings.and_then(|timings| timings.torch.as_ref()) {
        let _ = writeln!(text, "- compared with: PyTorch {torch}");
    }
    let _ = write!(text, "- check again: `{command}`\n\n");
    let mut rows = vec![["", "result", ""].map(str::to_owned).to_vec()];
    for Outcome { what, result, passed } in outcomes {
        let passed = if *passed { "passed" } else { "**failed**" };
        rows.push(vec![what.clone(), result.replace('|', "/"), passed.to_owned()]);
    }
    text += &table(&rows);
    if let Some(timings) = timings {
        text += &times(timings);
    }
    text
}

fn times(timings: &Timings) -> String {
    let mut text = String::from("\n## Times\n\n");
    if let Some(peak) = timings.peak {
        let _ = writeln!(text, "Measured peak, a product of two matrices in f32: {peak:.0} GFLOP/s.");
    }
    text.push_str(
        "All in f32 without TF32. Milliseconds are medians, with the interquartile range in % of the median. The ratio is\n\
         Kakusan's time divided by that of PyTorch's fastest layout; below 1, Kakusan is faster. Memory is what the process\n\
         takes of the card, and its ratio is to that of PyTorch channels-last.\n\n",
    );
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".into());
    let time = |summary: Option<Summary>| {
        or_dash(summary.map(|Summary { median, noise, .. }| format!("{median:.2} ({noise:.1} %)")))
    };
    let mut rows = vec![vec!["".to_owned(), "Kakusan ms".to_owned(), "of peak".to_owned()]];
    rows[0].extend(LAYOUTS.map(|layout| format!("PyTorch {layout} ms")));
    rows[0].extend(["ratio", "MiB", "PyTorch MiB", "ratio"].map(str::to_owned));
    for Row { item, kakusan, pytorch, memory: [ours, theirs] } in &timings.rows {
        let speed = item.flops.zip(*kakusan).map(|(flops, time)| flops / time.median / 1e6);
        let share = speed.zip(timings.peak).map(|(speed, peak)| format!("{:.1} %", 100.0 * speed / peak));
        let best = pytorch.iter().flatten().map(|summary| summary.median).min_by(f64::total_cmp);
        let ratio = kakusan.zip(best).map(|(ours, best)| format!("{:.2}", ours.median / best));
        let of_memory = ours.zip(*theirs).map(|(ours, theirs)| format!("{:.2}", ours as f64 / theirs as f64));
        let mut row = vec![item.name.clone(), time(*kakusan), or_dash(share)];
        row.extend(pytorch.iter().map(|summary| time(*summary)));
        row.push(or_dash(ratio));
        row.extend([ours, theirs].map(|memory| or_dash(memory.map(|mib| mib.to_string()))));
        row.push(or_dash(of_memory));
        rows.push(row);
    }
    text += &table(&rows);
    if !timings.notes.is_empty() {
        text.push('\n');
        timings.notes.iter().for_each(|note| text.push_str(&format!("- {note}\n")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_what_passed_and_how_fast_it_was() {
        let card = Card::parse("NVIDIA H200, 580.65.06, 143771 MiB, 9.0").unwrap();
        let outcome = |what: &str, passed| Outcome { what: what.into(), result: "3 passed".into(), passed };
        let summary = |median| Some(Summary { median, least: median, noise: 1.0, rounds: 7 });
        let row = Row {
            item: Item { name: "step 184.toml BasicUNet b128".into(), flops: Some(4e9) },
            kakusan: summary(2.0),
            pytorch: [summary(5.0), None, summary(4.0)],
            memory: [Some(600), Some(1000)],
        };
        let timings = Timings {
            torch: Some("2.15".into()),
            peak: Some(20_000.0),
            rows: vec![row],
            notes: vec!["x: compiled failed: no compiler".into()],
        };
        let outcomes = [outcome("tests of kernels", true), outcome("losses", false)];
        let page = page("2026-12-01", &card, &outcomes, Some(&timings), "cargo xtask gpu-check");
        let squeezed = page.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n");
        let squeezed = squeezed.collect::<String>();
        for part in [
            "- card: NVIDIA H200, 143771 MiB, compute capability 9.0, driver 580.65.06\n",
            "- compared with: PyTorch 2.15\n",
            "| **failed** |",
            "| step 184.toml BasicUNet b128 | 2.00 (1.0 %) | 10.0 % | 5.00 (1.0 %) | – | 4.00 (1.0 %) | 0.50 | 600 | 1000 | 0.60 |",
            "- x: compiled failed",
        ] {
            assert!(squeezed.contains(part), "`{part}` is not in\n{page}");
        }
        assert_eq!(Card::parse("no devices were found"), None);
    }
}
