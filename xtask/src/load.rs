//! What the machine does beside a measurement: other processes, and the time that the host of a virtual machine takes.
//!
//! Linux counts processor time in /proc/stat for the machine, and in /proc/PID/stat for each process. What the measured
//! processes and the programs that they started (torch.compile starts a C++ compiler) did not use, others used. Waiting
//! for a disk is idle time.

use std::fs::read_to_string;
use std::time::{Duration, Instant};

/// Linux reports processor time in hundredths of a second.
const TICKS: f64 = 100.0;
/// The load of others, in % of one core, from which on figures suffer. Libraries whose threads wait by spinning, such
/// as PyTorch, become many times slower if there is one busy thread more than there are cores.
const MOST_OTHERS: f64 = 10.0;
/// The stolen time, in % of one core, from which on figures suffer: while it is stolen, the clock goes on.
const MOST_STOLEN: f64 = 5.0;

/// How long [`check_quiet`] looks.
const LOOK: Duration = Duration::from_secs(3);

/// Processor seconds of the whole machine since its start.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Machine {
    busy: f64,
    /// Taken by the host while a virtual processor wanted to run.
    stolen: f64,
}

impl Machine {
    /// From the text of /proc/stat.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let times: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        // the time of guests, which follows, is part of user and nice
        let [user, nice, system, _idle, _wait, interrupts, soft_interrupts, stolen, ..] = times.as_slice() else {
            return None;
        };
        let busy = (user + nice + system + interrupts + soft_interrupts) / TICKS;
        Some(Self { busy, stolen: stolen / TICKS })
    }
}

/// Processor seconds of a process, of all its threads, and of the programs that it started and that have ended.
pub(crate) fn cpu_seconds(process: u32) -> Option<f64> {
    of_process(&read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// From the text of /proc/PID/stat.
fn of_process(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?; // after the name, which may contain spaces
    let ticks = |place: usize| fields.split_whitespace().nth(place)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)? + ticks(13)? + ticks(14)?) / TICKS) // user and system, its own and its children's
}

/// One moment.
pub(crate) struct Look {
    when: Instant,
    machine: Machine,
    /// Processor seconds of what is measured.
    measured: f64,
}

impl Look {
    /// Now, when the measured processes have used so many processor seconds. `None` if the system does not report it.
    pub(crate) fn now(measured: f64) -> Option<Self> {
        let machine = Machine::parse(&read_to_string("/proc/stat").ok()?)?;
        Some(Self { when: Instant::now(), machine, measured })
    }

    /// Now, when everything measured is a program that this process has started and waited for.
    pub(crate) fn of_children() -> Option<Self> {
        Self::now(cpu_seconds(std::process::id())?)
    }
}

/// The load beside a measurement, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Load {
    wall: f64,
    others: f64,
    stolen: f64,
}

impl Load {
    /// Adds the time between two moments.
    pub(crate) fn add(&mut self, before: Option<Look>, after: Option<Look>) {
        let (Some(before), Some(after)) = (before, after) else { return };
        let busy = after.machine.busy - before.machine.busy;
        self.wall += (after.when - before.when).as_secs_f64();
        self.others += busy - (after.measured - before.measured);
        self.stolen += after.machine.stolen - before.machine.stolen;
    }

    /// What others used and what was stolen, in % of one core; `None` if nothing was measured.
    pub(crate) fn percent(&self) -> Option<[f64; 2]> {
        // ticks round: a little less than nothing is nothing
        (self.wall > 0.0).then(|| [self.others, self.stolen].map(|seconds| (100.0 * seconds / self.wall).max(0.0)))
    }

    /// Whether the figures of `threads` threads on so many cores suffered. Others may use cores that are idle, but not
    /// the second hyperthread of a busy core.
    pub(crate) fn disturbs(&self, threads: usize, cores: usize) -> bool {
        let idle = 100.0 * cores.saturating_sub(2 * threads) as f64;
        self.percent().is_some_and(|[others, stolen]| others > MOST_OTHERS + idle || stolen > MOST_STOLEN)
    }
}

/// Looks at the machine for a moment, and refuses it if it is busy with something else.
pub(crate) fn check_quiet() -> Result<(), String> {
    let (mut load, before) = (Load::default(), Look::of_children());
    std::thread::sleep(LOOK);
    load.add(before, Look::of_children());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match load.percent() {
        Some([others, stolen]) if load.disturbs(cores, cores) => Err(format!(
            "the machine is busy with something else: other processes use {others:.0} % of a core, and the host of a \
             virtual machine takes {stolen:.0} %; wait for them"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As /proc/stat has it, of two cores: the first line is their sum.
    fn stat(user: u64, system: u64, idle: u64, wait: u64, stolen: u64) -> String {
        format!("cpu  {user} 0 {system} {idle} {wait} 0 0 {stolen} 0 0\ncpu0 1 0 1 1 1 0 0 1 0 0\nintr 39991118 0 0\n")
    }

    fn load(before: &str, after: &str, measured: f64, seconds: u64) -> Load {
        let (mut load, when) = (Load::default(), Instant::now());
        let look = |stat: &str, seconds, measured| {
            let when = when + Duration::from_secs(seconds);
            Machine::parse(stat).map(|machine| Look { when, machine, measured })
        };
        load.add(look(before, 0, 0.0), look(after, seconds, measured));
        load
    }

    fn percent(load: &Load) -> [f64; 2] {
        load.percent().unwrap().map(f64::round)
    }

    #[test]
    fn the_lines_of_the_kernel_are_read() {
        let line = "cpu  5703591 212260 638312 1046019 19220 0 8242 9623 77 0\ncpu0 2841030 95836";
        assert_eq!(Machine::parse(line), Some(Machine { busy: 65_624.05, stolen: 96.23 }));
        assert_eq!(Machine::parse("cpu  1 2 3\n"), None);
        assert_eq!(Machine::parse("intr 1 2 3 4 5 6 7 8 9"), None);
        let process = "123 (a (b) c) R 1 1 1 0 -1 4194304 1 2 3 4 1100 200 30 4 20 0 2 0 99 1 2";
        assert_eq!(of_process(process), Some(13.34)); // 11 s and 2 s, and of its children 0.3 s and 0.04 s
    }

    #[test]
    fn only_what_is_neither_measured_nor_idle_counts_as_others() {
        // ten seconds of two cores, which the measured processes use: 19.8 s of them, and 0.1 s housekeeping
        let quiet = load(&stat(1000, 100, 500, 0, 0), &stat(2980, 110, 510, 0, 0), 19.8, 10);
        assert_eq!(percent(&quiet), [1.0, 0.0]);
        assert!(!quiet.disturbs(2, 2) && !quiet.disturbs(1, 2));
        // one thread, the other core waits for a disk
        let waits = load(&stat(0, 0, 0, 0, 0), &stat(1000, 0, 0, 1000, 0), 10.0, 10);
        assert_eq!(percent(&waits), [0.0, 0.0]);
        assert!(!waits.disturbs(1, 2));
        // rounding may leave less than nothing
        let rounded = load(&stat(0, 0, 0, 0, 0), &stat(999, 0, 1, 0, 0), 10.0, 10);
        assert_eq!(percent(&rounded), [0.0, 0.0]);
    }

    #[test]
    fn others_and_stolen_time_disturb() {
        let others = load(&stat(0, 0, 0, 0, 0), &stat(1500, 0, 500, 0, 0), 10.0, 10);
        assert_eq!(percent(&others), [50.0, 0.0]);
        assert!(others.disturbs(2, 2) && others.disturbs(1, 2));
        assert!(!others.disturbs(1, 4)); // on cores that are idle, they do not
        let stolen = load(&stat(0, 0, 0, 0, 0), &stat(1880, 0, 0, 0, 120), 18.8, 10);
        assert_eq!(percent(&stolen), [0.0, 12.0]);
        assert!(stolen.disturbs(2, 2) && stolen.disturbs(1, 64));
        assert!(!Load::default().disturbs(2, 2) && Load::default().percent().is_none());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_program_that_was_waited_for_counts_as_measured() {
        let before = cpu_seconds(std::process::id()).unwrap();
        let spin = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        assert!(std::process::Command::new("sh").args(["-c", spin]).status().unwrap().success());
        assert!(cpu_seconds(std::process::id()).unwrap() > before);
        assert!(Look::of_children().is_some());
    }
}
