//! Measures in turns: one round of every layout, then the next, so that disturbances of the machine affect all of them.

use std::time::{Duration, Instant};

use super::options::{Options, Setting};
use super::stats::Summary;
use super::worker::{Answer, Item, Worker};
use crate::load::{Load, Look};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub(crate) const PEAK: &str = "peak";
pub(crate) const LAYOUTS: [&str; 3] = ["nchw", "channels-last", "compiled"];

/// The number of rounds of an item: at least `least` (three, if these take twice the time), then as many as fit into
/// the time, up to `most`.
struct Rounds {
    least: usize,
    most: usize,
    time: Duration,
}

impl Rounds {
    fn are_enough(&self, done: usize, taken: Duration) -> bool {
        let enough = if taken >= 2 * self.time { self.least.min(3) } else { self.least };
        done >= self.most || (done >= enough && taken >= self.time)
    }

    fn of(name: &str, options: &Options) -> Self {
        let model = crate::bench::is_model(name);
        let seconds = match (model, options.against_pytorch) {
            (true, true) => 35.0,
            (true, false) => 8.0,
            (false, true) => 4.0,
            (false, false) => 1.5,
        };
        match options.quick {
            true => Self { least: 3, most: 9, time: Duration::from_secs_f64(seconds / 5.0) },
            false => Self { least: 7, most: 25, time: Duration::from_secs_f64(seconds) },
        }
    }
}

/// The times of one item.
pub(crate) struct Row {
    pub(crate) item: Item,
    pub(crate) kakusan: Option<Summary>,
    /// One for each of `LAYOUTS`, if it was measured.
    pub(crate) pytorch: [Option<Summary>; 3],
}

pub(crate) struct Measured {
    pub(crate) setting: Setting,
    pub(crate) rows: Vec<Row>,
    pub(crate) notes: Vec<String>,
    /// What PyTorch's worker answers to `about`.
    pub(crate) pytorch: Vec<(String, String)>,
    /// In GFLOP/s.
    pub(crate) peak: Option<f64>,
    /// Whether the machine was busy with something else.
    pub(crate) disturbed: bool,
}

pub(crate) fn measure(options: &Options, setting: Setting, mut kakusan: Worker) -> Result<Measured> {
    let (items, mut notes) = kakusan.list()?;
    let mut pytorch = match options.against_pytorch {
        true => Some(Worker::pytorch(&options.python, setting)?),
        false => None,
    };
    let about = pytorch.as_mut().map_or(Ok(vec![]), Worker::about)?;
    let wanted = |item: &Item| item.name == PEAK || options.only.as_ref().is_none_or(|only| contains(&item.name, only));
    let items: Vec<Item> = items.into_iter().filter(wanted).collect();

    let mut beside = Beside::default();
    let mut rows = vec![];
    for (i, item) in items.iter().enumerate() {
        let (row, failures) = take_turns(item, options, &mut kakusan, pytorch.as_mut(), &mut beside)?;
        let took = row.kakusan.map_or("failed".into(), |summary| format!("{:.2} ms", summary.median));
        eprintln!("{}: {} of {}: {}: {took}", setting.title(), i + 1, items.len(), item.name);
        for failure in failures {
            eprintln!("  {failure}");
            notes.push(format!("{}: {failure}", item.name));
        }
        rows.push(row);
    }
    let cores = std::thread::available_parallelism()?.get();
    notes.extend(beside.note(setting.threads, cores));
    let peak_row = rows.iter().find(|row| row.item.name == PEAK);
    let peak = peak_row.and_then(|row| Some(row.item.flops? / row.kakusan?.least / 1e6));
    rows.retain(|row| row.item.name != PEAK);
    let disturbed = beside.load.disturbs(setting.threads, cores);
    Ok(Measured { setting, rows, notes, pytorch: about, peak, disturbed })
}

/// All rounds of one item.
fn take_turns(
    item: &Item,
    options: &Options,
    kakusan: &mut Worker,
    mut pytorch: Option<&mut Worker>,
    beside: &mut Beside,
) -> Result<(Row, Vec<String>)> {
    let rounds = Rounds::of(&item.name, options);
    let theirs: &[&str] = if pytorch.is_some() && item.name != PEAK { &LAYOUTS } else { &[] };
    let lanes: Vec<&str> = std::iter::once("kakusan").chain(theirs.iter().copied()).collect();
    let mut times = vec![vec![]; lanes.len()];
    let mut silent = vec![false; lanes.len()];
    let mut failures = vec![];
    let mut start = Instant::now();
    let mut round = 0;
    while !rounds.are_enough(round, start.elapsed()) {
        // in alternating order, so that a machine that slows down favours no layout
        let order: Vec<usize> =
            if round % 2 == 0 { (0..lanes.len()).collect() } else { (0..lanes.len()).rev().collect() };
        for lane in order.into_iter().filter(|&lane| !silent[lane]).collect::<Vec<_>>() {
            let before = Moment::now(lane, kakusan, pytorch.as_deref());
            let answer = match (&mut pytorch, lane) {
                (Some(pytorch), 1..) => pytorch.run(lanes[lane], &item.name)?,
                _ => kakusan.run(lanes[lane], &item.name)?,
            };
            beside.add(before, Moment::now(lane, kakusan, pytorch.as_deref()));
            match answer {
                Answer::Milliseconds(ms) => times[lane].push(ms),
                Answer::None => silent[lane] = true,
                Answer::Failed(reason) => {
                    silent[lane] = true;
                    failures.push(format!("{} failed: {reason}", lanes[lane]));
                }
            }
        }
        if round == 0 {
            start = Instant::now(); // the first round was the warm-up
        }
        round += 1;
    }
    let mut summaries = times.iter().map(|times| Summary::of(times));
    let kakusan = summaries.next().flatten();
    let mut pytorch = [None; 3];
    pytorch.iter_mut().zip(summaries).for_each(|(place, summary)| *place = summary);
    Ok((Row { item: item.clone(), kakusan, pytorch }, failures))
}

fn contains(name: &str, text: &str) -> bool {
    name.to_lowercase().contains(&text.to_lowercase())
}

/// The load beside the worker that works.
#[derive(Default)]
struct Beside {
    load: Load,
    wall: f64,
    /// Processor seconds of the worker that waits.
    waiting: f64,
}

/// One moment: of the machine, and the processor seconds of the worker that waits.
struct Moment {
    look: Look,
    when: Instant,
    waiting: f64,
}

impl Moment {
    fn now(lane: usize, kakusan: &Worker, pytorch: Option<&Worker>) -> Option<Self> {
        let ours = kakusan.cpu_seconds()?;
        let theirs = pytorch.map_or(Some(0.0), Worker::cpu_seconds)?;
        let waiting = if lane == 0 { theirs } else { ours };
        Some(Self { look: Look::now(ours + theirs)?, when: Instant::now(), waiting })
    }
}

impl Beside {
    fn add(&mut self, before: Option<Moment>, after: Option<Moment>) {
        let (Some(before), Some(after)) = (before, after) else { return };
        self.wall += (after.when - before.when).as_secs_f64();
        self.waiting += after.waiting - before.waiting;
        self.load.add(Some(before.look), Some(after.look));
    }

    fn note(&self, threads: usize, cores: usize) -> Option<String> {
        let [others, stolen] = self.load.percent()?;
        let waiting = 100.0 * self.waiting / self.wall;
        let warning = match self.load.disturbs(threads, cores) {
            true => " **The machine was busy with something else: these figures say little.**",
            false => "",
        };
        Some(format!(
            "While a worker was at work, the other one used {waiting:.1} % of one core, everything else on the machine \
             {others:.1} %, and the host of a virtual machine took {stolen:.1} %.{warning}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_end() {
        let rounds = Rounds { least: 7, most: 25, time: Duration::from_secs(10) };
        let enough = |done, seconds| rounds.are_enough(done, Duration::from_secs(seconds));
        assert!(!enough(7, 9) && enough(7, 10) && !enough(6, 19));
        assert!(!enough(2, 60) && enough(3, 20) && enough(25, 1));
    }

    #[test]
    fn names_are_found_whatever_their_case() {
        assert!(contains("step 184.toml BasicUNet b128", "basic"));
        assert!(!contains("step 184.toml BasicUNet b128", "conv"));
    }
}
