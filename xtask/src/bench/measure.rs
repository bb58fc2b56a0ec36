//! Measures in turns: one round of every layout, then the next, so that disturbances of the machine affect all of them.

use std::time::{Duration, Instant};

use super::options::{Options, Setting};
use super::stats::Summary;
use super::worker::{Answer, Item, Worker};
use crate::machine;

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

    let mut others = Others::default();
    let mut rows = vec![];
    for (i, item) in items.iter().enumerate() {
        let (row, failures) = take_turns(item, options, &mut kakusan, pytorch.as_mut(), &mut others)?;
        let took = row.kakusan.map_or("failed".into(), |summary| format!("{:.2} ms", summary.median));
        eprintln!("{}: {} of {}: {}: {took}", setting.title(), i + 1, items.len(), item.name);
        for failure in failures {
            eprintln!("  {failure}");
            notes.push(format!("{}: {failure}", item.name));
        }
        rows.push(row);
    }
    notes.extend(others.notes());
    let peak_row = rows.iter().find(|row| row.item.name == PEAK);
    let peak = peak_row.and_then(|row| Some(row.item.flops? / row.kakusan?.least / 1e6));
    rows.retain(|row| row.item.name != PEAK);
    Ok(Measured { setting, rows, notes, pytorch: about, peak })
}

/// All rounds of one item.
fn take_turns(
    item: &Item,
    options: &Options,
    kakusan: &mut Worker,
    mut pytorch: Option<&mut Worker>,
    others: &mut Others,
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
            let before = others.look(lane, kakusan, pytorch.as_deref());
            let answer = match (&mut pytorch, lane) {
                (Some(pytorch), 1..) => pytorch.run(lanes[lane], &item.name)?,
                _ => kakusan.run(lanes[lane], &item.name)?,
            };
            others.add(before, others.look(lane, kakusan, pytorch.as_deref()));
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

/// The load of other processes, in % of one core, above which the report carries a warning. Libraries whose threads
/// wait by spinning, such as PyTorch, become many times slower if there is one busy thread more than there are cores.
const DISTURBED: f64 = 10.0;

/// The load of other processes while a worker ran.
#[derive(Default)]
struct Others {
    wall: f64,
    /// Of the idle worker.
    idle: f64,
    /// Of the rest of the machine.
    strangers: f64,
}

/// Processor seconds at one moment: the working worker's, the idle one's, the machine's.
struct Look {
    when: Instant,
    working: f64,
    idle: f64,
    machine: f64,
}

impl Others {
    fn look(&self, lane: usize, kakusan: &Worker, pytorch: Option<&Worker>) -> Option<Look> {
        let ours = kakusan.cpu_seconds()?;
        let theirs = pytorch.map_or(Some(0.0), Worker::cpu_seconds)?;
        let (working, idle) = if lane == 0 { (ours, theirs) } else { (theirs, ours) };
        Some(Look { when: Instant::now(), working, idle, machine: machine::busy_seconds()? })
    }

    fn add(&mut self, before: Option<Look>, after: Option<Look>) {
        let (Some(before), Some(after)) = (before, after) else { return };
        let (working, idle) = (after.working - before.working, after.idle - before.idle);
        self.wall += (after.when - before.when).as_secs_f64();
        self.idle += idle;
        self.strangers += after.machine - before.machine - working - idle;
    }

    fn notes(&self) -> Option<String> {
        if self.wall == 0.0 {
            return None;
        }
        let [idle, strangers] = [self.idle, self.strangers].map(|seconds| (100.0 * seconds / self.wall).max(0.0));
        let warning = match strangers > DISTURBED {
            true => " **The machine was busy with something else: these figures say little.**",
            false => "",
        };
        Some(format!(
            "While a worker was at work, the other one used {idle:.1} % of one core, everything else on the machine \
             {strangers:.1} %.{warning}"
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

    #[test]
    fn others_are_reported_in_shares_of_a_core() {
        assert_eq!(Others::default().notes(), None);
        let others = Others { wall: 10.0, idle: 0.05, strangers: 5.0 };
        let notes = others.notes().unwrap();
        assert!(notes.contains("the other one used 0.5 %") && notes.contains("machine 50.0 %"), "{notes}");
        assert!(notes.contains("say little"));
        assert!(!Others { strangers: 0.1, ..others }.notes().unwrap().contains("say little"));
    }
}
