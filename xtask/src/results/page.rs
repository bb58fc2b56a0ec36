//! docs/results.md: a row for each recipe and side.

use super::runs::{Run, Side};
use super::train::sampling;
use crate::bench::report::table;
use crate::bench::stats::Summary;
use crate::root;

const ABOUT: &str = "\
Seconds are those of a whole training: from the start of `kakusan train` to its end, with data, pictures and report.
The Fréchet distance is that of `kakusan eval`, in the features of its classifier, between samples and the digits that
the model was trained on; that of as many held-out digits, real ones, is the yardstick, and the ratio is the distance
divided by it. Sure is the share of the samples, and of the held-out digits, of which the classifier is sure.
Numbers are medians over the seeds, with their range in parentheses.
";
const PYTORCH: &str = "\
PyTorch trains the same network with the same data, batch and objective for the same time on the same cores
(`xtask/bench/train.py`, channels-last): its learning rate falls over the steps that fit. Its imports are not counted,
and it draws no pictures. `kakusan eval` measures both.
";

/// The page of the newest runs of each recipe and side on each machine.
pub(crate) fn text(runs: &[Run], recipes: &[&str]) -> String {
    let mut machines: Vec<&str> =
        runs.iter().filter(|run| recipes.contains(&&*run.recipe)).map(|run| run.machine.as_str()).collect();
    machines.sort_unstable();
    machines.dedup();
    let mut shown = vec![];
    for recipe in recipes {
        for machine in &machines {
            shown.extend([Side::Kakusan, Side::PyTorch].map(|side| newest(runs, recipe, machine, side)));
        }
    }
    shown.retain(|runs| !runs.is_empty());
    let mut text = String::from("# Results\n\n");
    if shown.is_empty() {
        return text + "Nothing was measured yet: `cargo xtask results --help`.\n";
    }
    if let [machine] = machines[..] {
        text += &format!("- machine: {machine}\n");
    }
    text += "- measure again: `cargo xtask results --mnist DIR --python PYTHON`; one recipe: `--only NAME`\n";
    text += "- all runs: [runs/results.tsv](runs/results.tsv)\n\n";
    text += ABOUT;
    if shown.iter().flatten().any(|run| run.side == Side::PyTorch) {
        text += PYTORCH;
    }
    text += "\n";
    let several = machines.len() > 1;
    let rows = shown.iter().map(|runs| row(runs, several));
    text += &table(&std::iter::once(head(several)).chain(rows).collect::<Vec<_>>());
    if shown.iter().flatten().any(|run| run.busy) {
        text += "\n\\* The machine was busy with something else during a training: these figures say little.\n";
    }
    text += "\nOne seed by hand:\n\n```sh\n";
    for name in recipes {
        let mut own = shown.iter().flatten().filter(|run| run.side == Side::Kakusan && run.recipe == *name);
        if let Some(run) = own.next() {
            let config = std::fs::read_to_string(root().join(format!("configs/{name}.toml"))).unwrap_or_default();
            let sampling = sampling(&config).join(" ");
            text += &format!("cargo xtask train --config configs/{name}.toml --data DIR --seed {}\n", run.seed);
            text += &format!("cargo xtask eval --model runs/{name} --images {} {sampling}\n", run.images);
        }
    }
    text + "```\n"
}

/// The runs of a recipe and side of the command that measured it last on a machine, by their seeds.
fn newest<'a>(runs: &'a [Run], recipe: &str, machine: &str, side: Side) -> Vec<&'a Run> {
    let of = runs.iter().filter(|run| run.recipe == recipe && run.machine == machine && run.side == side);
    let last = of.clone().map(|run| &run.measured).max();
    let mut newest: Vec<&Run> = of.filter(|run| Some(&run.measured) == last).collect();
    newest.sort_by_key(|run| run.seed);
    newest
}

/// The columns; the machine's, if there are several.
fn head(machine: bool) -> Vec<String> {
    let mut columns = vec![
        "",
        "trained by",
        "measured",
        "seeds",
        "parameters",
        "training seconds",
        "training steps",
        "sampling steps",
        "Fréchet distance",
        "of held-out digits",
        "ratio",
        "sure",
        "of held-out digits",
    ];
    if machine {
        columns.insert(2, "machine");
    }
    columns.into_iter().map(str::to_owned).collect()
}

fn row(runs: &[&Run], machine: bool) -> Vec<String> {
    let [first, ..] = runs else { return vec![] };
    let of = |value: &dyn Fn(&Run) -> f64, digits: usize| {
        median(&runs.iter().map(|run| value(run)).collect::<Vec<_>>(), digits)
    };
    let percent = |value: &dyn Fn(&Run) -> f64| of(&|run| 100.0 * value(run), 1) + " %";
    let mark = if runs.iter().any(|run| run.busy) { " *" } else { "" };
    let mut row = vec![
        format!("{}{mark}", first.recipe),
        first.side.name().to_owned(),
        first.measured.split(' ').next().unwrap_or_default().to_owned(),
        runs.len().to_string(),
        thousands(first.parameters),
        of(&|run| run.seconds, 1),
        of(&|run| run.steps as f64, 0),
        first.sampling_steps.to_string(),
        of(&|run| run.figures.distance, 3),
        of(&|run| run.figures.held_out_distance, 3),
        of(&|run| run.figures.distance / run.figures.held_out_distance, 2),
        percent(&|run| run.figures.sure),
        percent(&|run| run.figures.held_out_sure),
    ];
    if machine {
        row.insert(2, first.machine.clone());
    }
    row
}

/// The median of some numbers, and their range if they differ.
fn median(numbers: &[f64], digits: usize) -> String {
    let Some(Summary { median, least, .. }) = Summary::of(numbers) else { return "–".to_owned() };
    let most = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let [median, least, most] = [median, least, most].map(|number| format!("{number:.digits$}"));
    if least == most { median } else { format!("{median} ({least} to {most})") }
}

/// A number with commas.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::runs::tests::run;
    use super::*;

    #[test]
    fn the_newest_runs_are_shown_with_their_ranges() {
        let (old, new) = ("2026-11-29 10:00:00", "2026-11-30 04:00:00");
        let runs = [
            run(old, "a", Side::Kakusan, 0, 99.0, 9.0),
            run(new, "a", Side::Kakusan, 1, 61.0, 0.5),
            run(new, "a", Side::Kakusan, 0, 60.0, 0.4),
            run(new, "a", Side::Kakusan, 2, 59.0, 0.1),
            Run { busy: true, ..run(old, "a", Side::PyTorch, 0, 60.0, 12.0) },
            run(new, "unknown", Side::Kakusan, 0, 1.0, 1.0),
        ];
        let page = text(&runs, &["b", "a"]);
        let rows: Vec<Vec<&str>> = page
            .lines()
            .filter(|line| line.starts_with("| a"))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        let expected = [
            vec![
                "a",
                "Kakusan",
                "2026-11-30",
                "3",
                "619,697",
                "60.0 (59.0 to 61.0)",
                "2304",
                "30",
                "0.400 (0.100 to 0.500)",
                "0.100",
                "4.00 (1.00 to 5.00)",
                "90.0 %",
                "97.0 %",
            ],
            vec![
                "a *",
                "PyTorch",
                "2026-11-29",
                "1",
                "619,697",
                "60.0",
                "2304",
                "30",
                "12.000",
                "0.100",
                "120.00",
                "90.0 %",
                "97.0 %",
            ],
        ];
        assert_eq!(rows, expected, "{page}");
        assert!(page.contains("\\* The machine was busy") && page.contains("PyTorch trains the same network"));
        assert!(page.contains("cargo xtask train --config configs/a.toml --data DIR --seed 0\n"), "{page}");
    }

    #[test]
    fn a_recipe_has_a_row_for_each_machine() {
        let here = run("2026-11-30 04:00:00", "a", Side::Kakusan, 0, 60.0, 0.4);
        let there = Run { machine: "another".into(), ..run("2026-12-01 04:00:00", "a", Side::Kakusan, 0, 90.0, 0.4) };
        let page = text(&[here.clone(), there], &["a"]);
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| a ")).collect();
        assert_eq!(rows.len(), 2, "{page}");
        assert!(rows[0].contains(&here.machine) && rows[1].contains("another"), "{page}");
        assert!(!page.contains("- machine:") && page.matches("--config configs/a.toml").count() == 1, "{page}");
    }

    #[test]
    fn a_page_of_nothing_says_so_and_of_quiet_runs_marks_none() {
        assert!(text(&[], &["a"]).contains("Nothing was measured yet"));
        let page = text(&[run("2026-11-30 04:00:00", "184-v", Side::Kakusan, 0, 60.0, 0.4)], &["184-v"]);
        assert!(!page.contains("busy") && !page.contains("PyTorch trains"), "{page}");
        assert!(
            page.contains("eval --model runs/184-v --images 2048 --scheduler DDIMScheduler --eta 1.0 --steps 30\n")
        );
    }

    #[test]
    fn numbers_have_commas() {
        assert_eq!([7, 1000, 309_057, 1_707_009].map(thousands), ["7", "1,000", "309,057", "1,707,009"]);
    }
}
