//! Compares several runs on one page: their settings and their loss curves.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use kakusan_pipeline::{Error, Record, Result, read_metrics};

use crate::page::{STYLE, escape, thousands};

/// The configuration file of a run.
const CONFIG_FILE: &str = "config.toml";

/// More runs than this cannot be distinguished.
const MAX_RUNS: usize = 12;
/// The curves' colours, distinguishable with colour blindness (Okabe and Ito 2008). Further runs repeat them, dashed.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
/// The size of the figure.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 420.0;

/// A run and its steps so far.
struct Told {
    name: String,
    settings: Vec<(String, String)>,
    records: Vec<Record>,
}

/// A self-contained page that compares the runs in `dirs`: a plot of their losses and a table of the settings in which
/// they differ.
///
/// # Errors
/// For no run or more than twelve, and for a folder that is not the folder of a run.
pub fn compare(dirs: &[PathBuf]) -> Result<String> {
    if dirs.is_empty() || dirs.len() > MAX_RUNS {
        return Err(Error::Unfit(format!("name 1 to {MAX_RUNS} runs to compare, not {}", dirs.len())));
    }
    let runs = dirs.iter().map(|dir| read(dir)).collect::<Result<Vec<_>>>()?;
    let title = match runs.as_slice() {
        [one] => format!("The run {}", one.name),
        more => format!("Comparison of {} runs", more.len()),
    };
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{0}</title>\n\
         <style>\n{STYLE}\n</style>\n</head>\n<body>\n<h1>{0}</h1>\n<h2>Losses</h2>\n{1}{2}\
         <h2>Settings that differ</h2>\n{3}</body>\n</html>\n",
        escape(&title),
        figure(&runs),
        results(&runs),
        differences(&runs)
    ))
}

fn read(dir: &Path) -> Result<Told> {
    let not_a_run = |reason: String| Error::NotARun { dir: dir.to_owned(), reason };
    let path = dir.join(CONFIG_FILE);
    if !path.is_file() {
        return Err(not_a_run(format!("it has no {CONFIG_FILE}; name the folder of a training")));
    }
    let text = fs::read_to_string(&path).map_err(|source| Error::Io { action: "read", path, source })?;
    let tables: toml::Table =
        text.parse().map_err(|e: toml::de::Error| not_a_run(format!("its {CONFIG_FILE}: {}", e.message())))?;
    let mut settings = vec![];
    for (table, values) in &tables {
        let values = values.as_table().into_iter().flatten();
        settings.extend(values.map(|(key, value)| (format!("{table}.{key}"), value.to_string())));
    }
    Ok(Told { name: dir.display().to_string(), settings, records: read_metrics(dir) })
}

/// The loss plot: each run is a line of at most 200 means.
fn figure(runs: &[Told]) -> String {
    const POINTS: usize = 200;
    let (left, right, top, bottom) = (60.0, WIDTH - 15.0, 15.0, HEIGHT - 40.0);
    let lines: Vec<Vec<(f64, f64)>> = runs.iter().map(|run| means(&run.records, POINTS)).collect();
    let all = || lines.iter().flatten();
    let last = runs.iter().filter_map(|run| run.records.last()).map(|record| record.step).max().unwrap_or(0);
    let Some(least) = all().map(|point| point.1).reduce(f64::min) else {
        return "<p>No training step was done yet.</p>\n".into();
    };
    let most = all().map(|point| point.1).fold(least, f64::max);
    // logarithmic scale: losses fall fast at first and slowly later
    let (low, high) = (least.max(1e-12).ln(), most.max(1e-12).ln());
    let x = |step: f64| left + (right - left) * step / last.max(1) as f64;
    let y = |loss: f64| bottom - (bottom - top) * (loss.max(1e-12).ln() - low) / (high - low).max(1e-9);
    let mut svg = format!(
        "<figure><div class=\"scroll\"><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" role=\"img\" \
         aria-label=\"The losses of the runs over their steps\" font-size=\"13\" fill=\"currentColor\">\n"
    );
    for i in 0..=4 {
        let share = f64::from(i) / 4.0;
        let (loss, step) = ((low + (high - low) * share).exp(), (last as f64 * share).round());
        let (at_loss, at_step) = (y(loss), x(step));
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" x2=\"{right}\" y1=\"{at_loss:.1}\" y2=\"{at_loss:.1}\" stroke=\"currentColor\" opacity=\".15\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{loss:.4}</text>\
             <text x=\"{at_step:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            left - 8.0,
            at_loss + 4.0,
            bottom + 22.0,
            thousands(step as usize)
        );
    }
    for (i, line) in lines.iter().enumerate() {
        let points: Vec<String> = line.iter().map(|(step, loss)| format!("{:.1},{:.1}", x(*step), y(*loss))).collect();
        let (colour, dash) = pen(i);
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash} points=\"{}\"/>",
            points.join(" ")
        );
    }
    svg + "</svg></div><figcaption>The mean loss over the steps, on a logarithmic scale. Losses are comparable \
           only between runs with the same loss function, scheduler and data.</figcaption></figure>\n"
}

/// The colour and dashes of a run's line.
fn pen(run: usize) -> (&'static str, &'static str) {
    (COLOURS[run % COLOURS.len()], if run < COLOURS.len() { "" } else { " stroke-dasharray=\"6 4\"" })
}

/// Means over at most `most` consecutive ranges of steps, each with its mean step. The ranges differ in length by one
/// step at most: the mean of a short remainder would stand out.
fn means(records: &[Record], most: usize) -> Vec<(f64, f64)> {
    let mean = |range: &[Record], of: fn(&Record) -> f64| range.iter().map(of).sum::<f64>() / range.len() as f64;
    let count = records.len().min(most);
    let begin = |range: usize| range * records.len() / count;
    let ranges = (0..count).map(|range| &records[begin(range)..begin(range + 1)]);
    ranges.map(|range| (mean(range, |r| r.step as f64), mean(range, |r| f64::from(r.loss)))).collect()
}

/// One row per run: its line, its progress, and its final loss.
fn results(runs: &[Told]) -> String {
    let mut table =
        "<div class=\"scroll\"><table>\n<tr><th>run</th><th>steps</th><th>epochs</th><th>mean loss of the last 100 \
                     steps</th><th>minutes</th></tr>\n"
            .to_owned();
    for (i, run) in runs.iter().enumerate() {
        let (colour, dash) = pen(i);
        let line = format!(
            "<svg width=\"28\" height=\"10\"><line x1=\"0\" x2=\"28\" y1=\"5\" y2=\"5\" stroke=\"{colour}\" stroke-width=\"3\"{dash}/></svg>"
        );
        let last = run.records.last();
        let loss = match means(&run.records[run.records.len().saturating_sub(100)..], 1).first() {
            Some((_, loss)) => format!("{loss:.5}"),
            None => "–".into(),
        };
        let _ = writeln!(
            table,
            "<tr><td>{line} {}</td><td>{}</td><td>{}</td><td>{loss}</td><td>{:.1}</td></tr>",
            escape(&run.name),
            thousands(last.map_or(0, |record| record.step)),
            last.map_or(0, |record| record.epoch),
            last.map_or(0.0, |record| record.seconds / 60.0)
        );
    }
    table + "</table></div>\n"
}

/// One row per setting that is not the same in all runs.
fn differences(runs: &[Told]) -> String {
    let of = |run: &Told, key: &str| run.settings.iter().find(|(own, _)| own == key).map(|(_, value)| value.clone());
    let keys: BTreeSet<&str> = runs.iter().flat_map(|run| &run.settings).map(|(key, _)| key.as_str()).collect();
    let mut rows = String::new();
    for key in keys {
        let values: Vec<Option<String>> = runs.iter().map(|run| of(run, key)).collect();
        if values.iter().any(|value| *value != values[0]) {
            let cells = values.iter().map(|value| format!("<td>{}</td>", escape(value.as_deref().unwrap_or("–"))));
            let _ = writeln!(rows, "<tr><th>{}</th>{}</tr>", escape(key), cells.collect::<String>());
        }
    }
    if rows.is_empty() {
        return "<p>None.</p>\n".into();
    }
    let names: String = runs.iter().map(|run| format!("<th>{}</th>", escape(&run.name))).collect();
    format!("<div class=\"scroll\"><table>\n<tr><th>setting</th>{names}</tr>\n{rows}</table></div>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(dir: &Path, lr: &str, losses: &[f32]) -> PathBuf {
        let dir = dir.join(format!("<{lr}>"));
        std::fs::create_dir(&dir).unwrap();
        let config = format!("[data]\nname = \"mnist\"\n[train]\nlearning_rate = {lr}\nseed = 0\n");
        std::fs::write(dir.join(CONFIG_FILE), config).unwrap();
        let line = |(i, loss): (usize, &f32)| {
            format!(
                "{{\"step\":{},\"epoch\":1,\"loss\":{loss},\"lr\":{lr},\"grad_norm\":1.0,\"seconds\":{i}}}\n",
                i + 1
            )
        };
        std::fs::write(dir.join("metrics.jsonl"), losses.iter().enumerate().map(line).collect::<String>() + "{\"st")
            .unwrap();
        dir
    }

    #[test]
    fn runs_lie_beside_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let losses: Vec<f32> = (0..1000).map(|i| 0.5 / (1.0 + i as f32)).collect();
        let runs =
            [run(dir.path(), "0.001", &losses), run(dir.path(), "0.01", &losses[..7]), run(dir.path(), "0.1", &[])];
        let page = compare(&runs).unwrap();
        assert_eq!(page.matches("<polyline").count(), 3);
        assert!(page.contains("<th>train.learning_rate</th><td>0.001</td><td>0.01</td><td>0.1</td>"), "{page}");
        assert!(!page.contains("train.seed") && !page.contains("<0.001>") && !page.contains("NaN"));
        assert!(page.contains("<td>1,000</td><td>1</td><td>0.00053</td>"), "{page}");
        let alone = compare(&runs[2..]).unwrap();
        assert!(alone.contains("No training step was done yet") && alone.contains("<p>None."));
    }

    #[test]
    fn a_curve_ends_on_as_many_steps_as_it_goes_by() {
        for steps in [1, 2, 199, 200, 201, 399, 401, 1001, 20_001] {
            // every second step has a high loss, the last one included
            let record = |step: usize| Record {
                step,
                epoch: 1,
                loss: if step % 2 == steps % 2 { 1.0 } else { 0.0 },
                lr: 0.0,
                grad_norm: 0.0,
                ema_decay: None,
                validation_loss: None,
                ema_validation_loss: None,
                seconds: 0.0,
                waited: None,
            };
            let records: Vec<Record> = (1..=steps).map(record).collect();
            let means = means(&records, 200);
            assert_eq!(means.len(), steps.min(200), "{steps}");
            let (_, last) = means[means.len() - 1];
            let length = steps / means.len();
            assert!(length == 1 || last <= 0.5 + 0.5 / length as f64, "{last} of {steps}");
        }
    }

    #[test]
    fn what_is_no_run_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(compare(&[]).unwrap_err().is_usage());
        assert!(compare(&[dir.path().to_owned()]).unwrap_err().to_string().contains("is not the folder of a run"));
        std::fs::write(dir.path().join(CONFIG_FILE), "[").unwrap();
        assert!(compare(&[dir.path().to_owned()]).unwrap_err().to_string().contains(CONFIG_FILE));
    }
}
