//! What `cargo xtask bench` measures of Kakusan: it is told on stdin what to run, and answers on stdout how long it
//! took.
//!
//! ```text
//! list               item NAME <tab> FLOPS    for each piece of work, FLOPS being - where they are not counted
//!                    note TEXT                what else the reader should know
//!                    end
//! about              about KEY <tab> VALUE    what was set
//!                    end
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

const USAGE: &str = "This is a part of `cargo xtask bench`; alone it measures nothing.";

/// How long to work before the clock starts, so that caches are filled and threads awake, and for how long to measure.
/// Work that takes longer runs once; what takes longest needs no warming up, which is over in its first milliseconds.
const WARM_UP: Duration = Duration::from_millis(10);
const MEASURE: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_millis(200);

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

struct Options {
    configs: PathBuf,
    avx2: bool,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| Some(args.get(args.iter().position(|arg| arg == name)? + 1)?.as_str());
    let Some(configs) = value("--configs") else {
        println!("{USAGE}");
        return Ok(());
    };
    let options = Options { configs: configs.into(), avx2: value("--vectors") == Some("avx2") };
    set_up(&options)?;

    let mut ready: Option<Ready> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("list", _) => list(&options)?,
            ("about", _) => println!("about threads\t{}\nend", rayon::current_num_threads()),
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

fn list(options: &Options) -> Result<()> {
    let (models, notes) = models::items(&options.configs)?;
    let peak = Item { name: peak::NAME.into(), flops: Some(peak::flops(options.avx2)) };
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
            let (_, took) = repeat(&mut work, Duration::ZERO)?;
            Ready { name: name.to_owned(), work, took }
        }
    };
    if ready.took < LONG {
        repeat(&mut ready.work, WARM_UP)?;
    }
    let (repetitions, took) = repeat(&mut ready.work, MEASURE)?;
    ready.took = took / repetitions;
    *last = Some(ready);
    Ok(took.as_secs_f64() * 1e3 / f64::from(repetitions))
}

/// Works for so long, and once at least: how often that was, and how long it took.
fn repeat(work: &mut Work, time: Duration) -> Result<(u32, Duration)> {
    let (start, mut repetitions) = (Instant::now(), 0);
    loop {
        work()?;
        repetitions += 1;
        if start.elapsed() >= time {
            return Ok((repetitions, start.elapsed()));
        }
    }
}

fn prepare(name: &str, options: &Options) -> Result<Work> {
    let words: Vec<&str> = name.split(' ').collect();
    match words.as_slice() {
        [peak::NAME] => Ok(peak::work(options.avx2)),
        ["bare" | "step" | "train" | "sample" | "forward", ..] => models::prepare(&words, &options.configs),
        _ => ops::prepare(&words),
    }
}

/// A number of a name, without the letter before it: `@28`, `b128`, `x40`.
pub(crate) fn number(word: &str) -> Result<usize> {
    word.trim_start_matches(['@', 'b', 'x']).parse().map_err(|_| format!("`{word}` is no number").into())
}
