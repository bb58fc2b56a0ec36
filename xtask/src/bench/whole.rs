//! A whole training as a process: its time and its peak memory.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::options::{Options, Setting};
use super::stats::Summary;
use crate::root;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How often the memory of the process is read. Linux keeps the maximum, so only growth at the very end is missed.
const LOOK: Duration = Duration::from_millis(10);

pub(crate) struct Whole {
    pub(crate) title: &'static str,
    pub(crate) seconds: Summary,
    /// The peak memory of all rounds in MiB, if the system reports it.
    pub(crate) peak_mib: Option<f64>,
}

/// Trains configs/184.toml, pictures included, in turns with tests/golden/tutorial.py in PyTorch.
pub(crate) fn measure(options: &Options, setting: Setting, kakusan: &Path) -> Result<Vec<Whole>> {
    let Some((rounds, mnist)) = &options.whole else { return Ok(vec![]) };
    let mnist = fs::canonicalize(mnist).map_err(|e| format!("{}: {e}", mnist.display()))?;
    let scratch = root().join("target/bench");
    fs::create_dir_all(&scratch)?;
    let ours = || {
        let mut command = Command::new(kakusan);
        command.arg("train").arg("--config").arg(root().join("configs/184.toml")).arg("--data").arg(&mnist);
        command.arg("--out").arg(scratch.join("184")).args(["--overwrite", "--device", "cpu"]);
        command.arg("--threads").arg(setting.threads.to_string());
        if setting.avx2 {
            command.args(["--vectors", "avx2"]);
        }
        command
    };
    let theirs = || {
        let mut command = Command::new(&options.python);
        command.arg(root().join("tests/golden/tutorial.py")).arg("--mnist").arg(&mnist).arg("--channels-last");
        command.arg("--out").arg(scratch.join("184.safetensors"));
        setting.for_pytorch(&mut command);
        command
    };
    let mut lanes: Vec<(&'static str, &dyn Fn() -> Command)> = vec![("Kakusan", &ours)];
    if options.against_pytorch {
        lanes.push(("PyTorch channels-last", &theirs));
    }
    let mut seen = vec![(vec![], None); lanes.len()];
    for round in 1..=*rounds {
        for ((title, command), (seconds, peak)) in lanes.iter().zip(&mut seen) {
            let (took, most) = watch(command())?;
            eprintln!("{}: the whole training, {round} of {rounds}: {title} {took:.1} s", setting.title());
            seconds.push(took);
            *peak = most.max(*peak);
        }
    }
    let whole = |((title, _), (seconds, peak)): (&(&'static str, _), (Vec<f64>, Option<u64>))| {
        Some(Whole { title, seconds: Summary::of(&seconds)?, peak_mib: peak.map(|kib| kib as f64 / 1024.0) })
    };
    Ok(lanes.iter().zip(seen).filter_map(whole).collect())
}

/// Runs a process to its end and returns its seconds and its peak memory in KiB.
fn watch(mut command: Command) -> Result<(f64, Option<u64>)> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().map_err(|e| format!("cannot start {}: {e}", command.get_program().display()))?;
    // another thread reads stderr, so that the process never blocks on a full pipe
    let said = child.stderr.take().map(|stderr| std::thread::spawn(move || std::io::read_to_string(stderr)));
    let status_file = format!("/proc/{}/status", child.id());
    let mut peak = None;
    let status = loop {
        peak = fs::read_to_string(&status_file).ok().and_then(|status| peak_kib(&status)).max(peak);
        match child.try_wait()? {
            Some(status) => break status,
            None => sleep(LOOK),
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    if !status.success() {
        let said = said.and_then(|thread| thread.join().ok()).and_then(std::io::Result::ok).unwrap_or_default();
        return Err(format!("{} failed:\n{said}", command.get_program().display()).into());
    }
    Ok((seconds, peak))
}

/// The peak memory in the text of /proc/PID/status.
fn peak_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read() {
        assert_eq!(peak_kib("Name:\tx\nVmPeak:\t  900 kB\nVmHWM:\t  176128 kB\n"), Some(176_128));
        assert_eq!(peak_kib("Name:\ta zombie\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_is_watched() {
        let mut command = Command::new("sleep");
        command.arg("0.1");
        let (seconds, peak) = watch(command).unwrap();
        assert!(seconds >= 0.1 && peak.unwrap() > 100);
        assert!(watch(Command::new("false")).is_err());
    }
}
