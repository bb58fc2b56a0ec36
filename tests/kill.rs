//! A training that is killed before any change to its folder resumes to the same bytes as an uninterrupted one. A
//! training in which any change fails ends with an error and loses nothing.
//!
//! Every change is tested: each file created, written, renamed, synced or deleted (`kakusan::weights::disk`). A kill
//! leaves the files as they are before the change, so a single run shows the state after each possible kill.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use kakusan::pipeline::{DeviceChoice, Error, Existing, Outcome, Registry, RunConfig, Training};
use kakusan::report::Report;
use kakusan::weights::disk::{Change, with_faults};

/// A training with everything that a checkpoint must hold: averages, moments, a position within an epoch, a changing
/// rate.
const CONFIG: &str = r#"
[data]
name = "mnist"
classes = [1, 8]
sources = ["drawn"]
drawn_per_class = 3

[model]
_class_name = "UNet2DModel"
sample_size = 28
in_channels = 1
out_channels = 1
layers_per_block = 1
block_out_channels = [2, 2]
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
mid_block_type = "null"
norm_num_groups = 1

[scheduler]
_class_name = "LinearMixScheduler"

[train]
epochs = 2
max_steps = 3
batch_size = 2
gradient_accumulation_steps = 2
checkpoint_every = 1
keep_checkpoints = 2
keep_best = true
optimizer = "adamw"
lr_scheduler = "cosine"
ema_sigma_rel = [0.1]
ema_snapshots = 2
tensorboard = true
sample_every = 1

[sample]
steps = 1
batch_size = 1
trajectory_steps = 1
"#;

/// A folder of runs. `runs/run` is the one under test.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn runs(&self) -> PathBuf {
        self.dir.path().join("runs")
    }

    fn run(&self) -> PathBuf {
        self.runs().join("run")
    }

    fn train(&self, existing: Existing, seed: u64) -> Result<Outcome, Error> {
        let set = [format!("train.seed={seed}")];
        let registry = Registry::default();
        let config = RunConfig::parse(CONFIG, "test", &set, &registry)?;
        let training = Training::new(config, self.run(), &registry).existing(existing).device(DeviceChoice::Cpu);
        let mut report = Report::new("kakusan");
        training.run(&mut |event| report.observe(event, &mut |_| {}))
    }

    fn resume(&self, seed: u64) -> Result<Outcome, Error> {
        self.train(Existing::Resume { allow_changes: false, checkpoint: None }, seed)
    }

    /// Everything under `runs`.
    fn state(&self) -> State {
        let mut state = State::new();
        read(&self.runs(), &self.runs(), &mut state);
        state
    }

    fn with(state: &State) -> Self {
        let place = Self::new();
        for (name, bytes) in state {
            let path = place.runs().join(name);
            match bytes {
                None => fs::create_dir_all(path).unwrap(),
                Some(bytes) => fs::write(path, bytes).unwrap(),
            }
        }
        place
    }
}

/// The step of the newest checkpoint of a run.
fn newest(run: &Path) -> usize {
    let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
    let step = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_prefix("checkpoint-")?.parse().ok();
    entries.filter_map(step).max().unwrap_or(0)
}

/// Folders and files by name, folders before their contents.
type State = BTreeMap<PathBuf, Option<Vec<u8>>>;

fn read(root: &Path, dir: &Path, state: &mut State) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, is_dir) = (entry.path(), entry.file_type().unwrap().is_dir());
        state.insert(path.strip_prefix(root).unwrap().to_owned(), (!is_dir).then(|| fs::read(&path).unwrap()));
        if is_dir {
            read(root, &path, state);
        }
    }
}

/// Everything that does not depend on interruptions: all but the times in the log, the report and TensorBoard's events.
fn lasting(state: &State) -> State {
    let mut lasting = state.clone();
    for (name, bytes) in &mut lasting {
        let Some(bytes) = bytes else { continue };
        match name.file_name().unwrap().to_str().unwrap() {
            "metrics.jsonl" => {
                let text = std::str::from_utf8(bytes).unwrap();
                let steps = text.lines().map(|line| line.split_once(",\"seconds\"").unwrap().0);
                *bytes = steps.collect::<Vec<_>>().join("\n").into_bytes();
            }
            "report.html" | "README.md" => *bytes = vec![],
            name if name.contains("tfevents") => *bytes = bytes.len().to_string().into_bytes(),
            _ => {}
        }
    }
    lasting
}

/// Panics if two folders differ.
#[track_caller]
fn same(ours: &State, expected: &State, after: &str) {
    let (ours, expected) = (lasting(ours), lasting(expected));
    assert_eq!(ours.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "after {after}");
    for (name, bytes) in &expected {
        assert!(ours[name] == *bytes, "{} differs after {after}", name.display());
    }
}

/// The states of `runs` that kills during `work` would leave, each once, with the change that follows. A line that is
/// being appended is also left half-written.
fn kills(place: &Place, work: impl FnOnce()) -> Vec<(String, State)> {
    let found: Rc<RefCell<Vec<(String, State)>>> = Rc::default();
    let (root, seen) = (place.runs(), found.clone());
    let look = move |change: Change| {
        let mut state = State::new();
        read(&root, &root, &mut state);
        let name = change.path.strip_prefix(&root).unwrap_or(change.path).to_owned();
        let what = format!("a kill before: {} {}", change.action, name.display());
        let mut seen = seen.borrow_mut();
        if change.action == "append" {
            let mut torn = state.clone();
            torn.get_mut(&name).unwrap().as_mut().unwrap().extend(&change.bytes[..change.bytes.len() / 2]);
            seen.push((what.clone() + ", half of it done", torn));
        }
        // the size of an unfinished temporary file makes no difference
        if !seen
            .iter()
            .rev()
            .take(2)
            .any(|(_, last)| last.keys().eq(state.keys()) && (change.action == "write" || *last == state))
        {
            seen.push((what, state));
        }
        Ok(())
    };
    with_faults(look, work);
    found.take()
}

/// The number of changes that `work` makes; all writes to one file count once.
fn changes(work: impl FnOnce()) -> usize {
    let count = Rc::new(RefCell::new(Counter::default()));
    let counter = count.clone();
    with_faults(
        move |change| {
            counter.borrow_mut().next(change);
            Ok(())
        },
        work,
    );
    let count = count.borrow();
    count.count
}

#[derive(Default)]
struct Counter {
    count: usize,
    written: PathBuf,
}

impl Counter {
    /// The number of the change, from 0.
    fn next(&mut self, change: Change) -> usize {
        let path = if change.action == "write" { change.path.to_owned() } else { PathBuf::new() };
        self.count += usize::from(path.as_os_str().is_empty() || self.written != path);
        self.written = path;
        self.count - 1
    }
}

#[test]
fn a_kill_before_any_change_changes_no_byte() {
    let place = Place::new();
    let left = kills(&place, || assert_eq!(place.train(Existing::Refuse, 3).unwrap(), Outcome::Finished));
    let whole = place.state();
    assert!(left.len() > 100, "{} kills", left.len());
    for (kill, state) in &left {
        let place = Place::with(state);
        match place.resume(3) {
            Ok(Outcome::Finished) => {}
            Err(e @ Error::NotARun { .. }) if !place.run().join("config.toml").exists() => {
                assert!(e.to_string().contains("it has no config.toml"), "{e}");
                place.train(Existing::Refuse, 3).unwrap_or_else(|e| panic!("{e} after {kill}"));
            }
            other => panic!("{other:?} after {kill}"),
        }
        same(&place.state(), &whole, kill);
    }
}

/// A resumed run has more to clean up: a damaged checkpoint, a half-written one, a half-deleted one.
#[test]
fn a_kill_while_a_run_resumes_changes_no_byte() {
    let place = Place::new();
    let left = kills(&place, || assert_eq!(place.train(Existing::Refuse, 3).unwrap(), Outcome::Finished));
    let whole = place.state();
    let has = |state: &State, name: &str| state.keys().any(|path| path.to_string_lossy().contains(name));
    let mixed =
        |(_, state): &&(String, State)| has(state, "checkpoints/checkpoint-2") && has(state, ".partial-3/unet_ema");
    let (_, mut state) = left.iter().find(mixed).expect("a checkpoint half written").clone();
    state.get_mut(Path::new("run/checkpoints/checkpoint-2/optimizer.safetensors")).unwrap().as_mut().unwrap().pop();

    let place = Place::with(&state);
    let left = kills(&place, || assert_eq!(place.resume(3).unwrap(), Outcome::Finished));
    let mut expected = whole.clone();
    expected.extend(place.state().into_iter().filter(|(name, _)| name.to_string_lossy().contains("damaged-")));
    assert!(expected.len() > whole.len(), "the damaged checkpoint is kept to be looked at");
    same(&place.state(), &expected, "a damaged checkpoint");
    let begin = left.iter().position(|(what, _)| what.contains("append")).unwrap();
    for (kill, state) in &left[..begin] {
        let place = Place::with(state);
        place.resume(3).unwrap_or_else(|e| panic!("{e} after {kill}"));
        same(&place.state(), &expected, kill);
    }
}

/// At any time, either the old run is complete or the new one.
#[test]
fn a_kill_while_a_run_is_overwritten_leaves_one_of_the_two() {
    let place = Place::new();
    place.train(Existing::Refuse, 3).unwrap();
    let old = place.state();
    let left = kills(&place, || assert_eq!(place.train(Existing::Overwrite, 4).unwrap(), Outcome::Finished));
    let new = place.state();
    let begin = left.iter().position(|(what, _)| what.contains("append")).unwrap();
    let (mut came_back, mut went_on) = (0, 0);
    for (kill, state) in &left[..begin] {
        let place = Place::with(state);
        match place.resume(4) {
            Ok(_) => {
                same(&place.state(), &new, kill);
                went_on += 1;
            }
            Err(Error::OtherConfig { .. }) => {
                same(&place.state(), &old, kill);
                place.train(Existing::Overwrite, 4).unwrap_or_else(|e| panic!("{e} after {kill}"));
                same(&place.state(), &new, kill);
                came_back += 1;
            }
            Err(e) => panic!("{e} after {kill}"),
        }
    }
    assert!(came_back > 2 && went_on > 10, "{came_back} and {went_on}");
}

/// A disk that is full from one change on, or that fails once.
#[test]
fn a_change_that_fails_ends_the_run_and_loses_nothing() {
    let whole = Place::new();
    let count = changes(|| assert_eq!(whole.train(Existing::Refuse, 3).unwrap(), Outcome::Finished));
    let whole = whole.state();
    for failing in 0..count {
        let is_full = failing % 2 == 0;
        let place = Place::new();
        let (mut counter, run) = (Counter::default(), place.run());
        let failed = Rc::new(RefCell::new((0, String::new())));
        let look = failed.clone();
        let fault = move |change: Change| {
            let number = counter.next(change);
            if number == failing {
                *look.borrow_mut() = (newest(&run), format!("{} {}", change.action, change.path.display()));
            }
            let needs_room = ["create", "write", "append"].contains(&change.action);
            match (number == failing, is_full && number > failing && needs_room) {
                (true, _) | (_, true) => {
                    Err(if is_full { ErrorKind::StorageFull.into() } else { ErrorKind::Other.into() })
                }
                _ => Ok(()),
            }
        };
        let ended = with_faults(fault, || place.train(Existing::Refuse, 3));
        let (before, change) = failed.take();
        let Err(error) = ended else { panic!("the error of {change} was lost") };
        assert!(!error.is_usage() && error.to_string().contains("cannot "), "{error}, of {change}");
        assert!(newest(&place.run()) >= before, "{change}: step {before} was lost");
        match place.resume(3) {
            Ok(_) => {}
            Err(Error::NotARun { .. }) if !place.run().join("config.toml").exists() => {
                place.train(Existing::Refuse, 3).unwrap_or_else(|e| panic!("{e} after {change}"));
            }
            Err(e) => panic!("{e} after {change}"),
        }
        same(&place.state(), &whole, &format!("an error of {change}"));
    }
}

#[test]
fn the_log_never_costs_a_checkpoint() {
    let place = Place::new();
    let left = kills(&place, || assert_eq!(place.train(Existing::Refuse, 3).unwrap(), Outcome::Finished));
    let weights = |state: State| -> State {
        let is_kept = |name: &Path| name.extension().is_some_and(|end| end == "safetensors");
        state
            .into_iter()
            .filter(|(name, _)| is_kept(name) && !name.starts_with("run/checkpoints/checkpoint-1"))
            .collect()
    };
    let whole = weights(place.state());
    let log = Path::new("run/metrics.jsonl");
    let (_, state) = left.iter().rfind(|(what, _)| what.ends_with("append run/metrics.jsonl")).unwrap();
    let text = String::from_utf8(state[log].clone().unwrap()).unwrap();
    let [first, second] = text.split_inclusive('\n').collect::<Vec<_>>().try_into().unwrap();
    let third = second.replace("\"step\":2", "\"step\":3");
    /// The damage to the log, its bytes, and the steps that are kept.
    type Damage = (&'static str, Option<Vec<u8>>, &'static [usize]);
    let damaged: [Damage; 10] = [
        ("absent", None, &[3]),
        ("empty", Some(vec![]), &[3]),
        ("without its first line", Some(second.into()), &[2, 3]),
        ("without its last line", Some(first.into()), &[1, 3]),
        ("cut within a line", Some(text[..text.len() - 20].into()), &[1, 3]),
        ("cut before the end of a line", Some(text.trim_end().into()), &[1, 2, 3]),
        ("no text", Some([&[0xff, 0xfe, b'\n'], second.as_bytes()].concat()), &[2, 3]),
        ("there twice", Some(text.repeat(2).into()), &[1, 2, 3]),
        ("in another order", Some(format!("{second}{first}").into()), &[1, 2, 3]),
        ("ahead of its checkpoint", Some(format!("{text}{third}{}", third.replace(":3", ":9")).into()), &[1, 2, 3]),
    ];
    for (what, bytes, steps) in damaged {
        let mut state = state.clone();
        match bytes {
            Some(bytes) => state.insert(log.to_owned(), Some(bytes)),
            None => state.remove(log),
        };
        let place = Place::with(&state);
        place.resume(3).unwrap_or_else(|e| panic!("a log that is {what}: {e}"));
        let state = place.state();
        let text = String::from_utf8(state[log].clone().unwrap()).unwrap();
        let kept = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64());
        assert_eq!(kept.map(|step| step.unwrap() as usize).collect::<Vec<_>>(), steps, "a log that is {what}");
        same(&weights(state), &whole, what);
    }
}
