//! What `cargo xtask bench` measures of Kakusan: it is told on stdin what to run, and answers on stdout how long it
//! took.
//!
//! ```text
//! list               item NAME <tab> FLOPS    for each piece of work, FLOPS being - where they are not counted
//!                    note TEXT                what else the reader should know
//!                    end
//! about              about KEY <tab> VALUE    what was set
//!                    end
//! draw KIND SEED N   numbers N ...            every so many of what torch.rand or torch.randn draws on the card
//! run LAYOUT NAME    ms MILLISECONDS          one repetition, once warmed up; there is one layout here, `kakusan`
//!                    failed REASON
//! ```
//!
//! It ends with its stdin, so that nothing is left behind by a benchmark that was stopped. xtask/bench/pytorch.py
//! speaks the same.

#![allow(clippy::print_stdout)]

mod models;
mod ops;
mod peak;

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kakusan::candle::Device;
use kakusan::pipeline::DeviceChoice;
use kakusan::rng::{Card, CudaGenerator};

const USAGE: &str = "This is a part of `cargo xtask bench`; alone it measures nothing.";

/// How long to work before the clock starts, so that caches are filled and threads awake, and for how long to measure.
/// Work that takes longer runs once; what takes longest needs no warming up, which is over in its first milliseconds.
const WARM_UP: Duration = Duration::from_millis(10);
const MEASURE: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_millis(200);

/// Of the drawn numbers, every so many are told.
const DRAWN_STEP: usize = 997;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// One repetition of something that is ready to run.
pub(crate) type Work = Box<dyn FnMut() -> Result<()>>;

/// Work that has run once, so that everything it needs is there.
struct Ready {
    name: String,
    work: Work,
    took: Duration,
}

/// One line of the list: what to measure, and the arithmetic in it where it has been counted.
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) flops: Option<f64>,
}

pub(crate) struct Options {
    pub(crate) configs: PathBuf,
    avx2: bool,
    pub(crate) choice: DeviceChoice,
    pub(crate) device: Device,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| Some(args.get(args.iter().position(|arg| arg == name)? + 1)?.as_str());
    let Some(configs) = value("--configs") else {
        println!("{USAGE}");
        return Ok(());
    };
    let choice: DeviceChoice = value("--device").unwrap_or("cpu").parse()?;
    let device = choice.open()?.device;
    let options = Options { configs: configs.into(), avx2: value("--vectors") == Some("avx2"), choice, device };
    set_up(&options)?;

    let mut ready: Option<Ready> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("list", _) => list(&options)?,
            ("about", _) => about(&options)?,
            ("draw", what) => println!("numbers {}", draw(what, &options.device)?),
            ("run", what) => {
                let name = what.strip_prefix("kakusan ").unwrap_or(what);
                match run(name, &mut ready, &options) {
                    Ok(ms) => println!("ms {ms}"),
                    Err(error) => println!("failed {}", error.to_string().replace('\n', " ")),
                }
            }
            _ => println!("failed there is no command `{line}`"),
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// The one place where threads and vectors are set.
fn set_up(options: &Options) -> Result<()> {
    kakusan::ops::keep_freed_memory(); // as the command does
    let threads = std::env::var("RAYON_NUM_THREADS").ok().and_then(|threads| threads.parse().ok());
    kakusan::ops::use_threads(threads)?;
    if options.avx2 {
        kakusan::ops::limit_vectors(kakusan::ops::Vectors::Avx2)?;
    }
    Ok(())
}

fn about(options: &Options) -> Result<()> {
    println!("about threads\t{}", rayon::current_num_threads());
    if let Some(card) = kakusan::ops::describe_cuda(&options.device)? {
        let (major, minor) = card.capability;
        println!("about card\t{}", card.name);
        println!("about capability\t{major}.{minor}");
        println!("about memory\t{}", card.memory);
    }
    println!("end");
    Ok(())
}

/// Numbers of torch's CUDA generator, as xtask/bench/pytorch.py draws them on the card itself.
fn draw(what: &str, device: &Device) -> Result<String> {
    let [kind, seed, n] = what.split(' ').collect::<Vec<_>>()[..] else { return Err("expected: KIND SEED N".into()) };
    let card = kakusan::ops::describe_cuda(device)?;
    let card =
        card.map(|card| Card { multiprocessors: card.multiprocessors, threads: card.threads_per_multiprocessor });
    let (mut generator, n) = (CudaGenerator::on(card.unwrap_or_default(), seed.parse()?), n.parse()?);
    generator.randn(100); // so that the numbers begin after others
    let numbers = if kind == "rand" { generator.rand(n) } else { generator.randn(n) };
    Ok(numbers.iter().step_by(DRAWN_STEP).map(|number| format!("{number:?}")).collect::<Vec<_>>().join(" "))
}

fn list(options: &Options) -> Result<()> {
    let (models, notes) = models::items(&options.configs)?;
    let peak = Item { name: peak::NAME.into(), flops: Some(peak::flops(options.avx2, &options.device)) };
    for Item { name, flops } in std::iter::once(peak).chain(ops::items()).chain(models) {
        println!("item {name}\t{}", flops.map_or("-".into(), |flops| format!("{flops}")));
    }
    notes.iter().for_each(|note| println!("note {note}"));
    println!("end");
    Ok(())
}

/// Milliseconds of one repetition of `name`, which is made ready unless it is from the last time.
fn run(name: &str, last: &mut Option<Ready>, options: &Options) -> Result<f64> {
    let mut ready = match last.take().filter(|ready| ready.name == name) {
        Some(ready) => ready,
        None => {
            let mut work = prepare(name, options)?;
            let (_, took) = repeat(&mut work, Duration::ZERO, &options.device)?;
            Ready { name: name.to_owned(), work, took }
        }
    };
    if ready.took < LONG {
        repeat(&mut ready.work, WARM_UP, &options.device)?;
    }
    let (repetitions, took) = repeat(&mut ready.work, MEASURE, &options.device)?;
    ready.took = took / repetitions;
    *last = Some(ready);
    Ok(took.as_secs_f64() * 1e3 / f64::from(repetitions))
}

/// Works for so long, and once at least: how often that was, and how long it took until the device was done.
fn repeat(work: &mut Work, time: Duration, device: &Device) -> Result<(u32, Duration)> {
    let (start, mut repetitions) = (Instant::now(), 0);
    loop {
        work()?;
        device.synchronize()?;
        repetitions += 1;
        if start.elapsed() >= time {
            return Ok((repetitions, start.elapsed()));
        }
    }
}

fn prepare(name: &str, options: &Options) -> Result<Work> {
    let words: Vec<&str> = name.split(' ').collect();
    match words.as_slice() {
        [peak::NAME] => peak::work(options.avx2, &options.device),
        ["bare" | "step" | "train" | "sample" | "forward", ..] => models::prepare(&words, options),
        _ => ops::prepare(&words, &options.device),
    }
}

/// A number of a name, without the letter before it: `@28`, `b128`, `x40`.
pub(crate) fn number(word: &str) -> Result<usize> {
    word.trim_start_matches(['@', 'b', 'x']).parse().map_err(|_| format!("`{word}` is no number").into())
}
