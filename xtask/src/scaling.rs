//! What data-parallel training costs on many processes: by a formula, and by a simulation of every message.
//!
//! A process computes its parts of the batch. The gradients are then added in the fixed order of the tree: each process
//! sends the others their chunks (all-to-all), adds its own chunk, and sends the sum to all (all-gather). A ring adds in
//! an order that depends on the processes; it is what NCCL and Gloo do with large messages.

use std::process::ExitCode;

const HELP: &str = "\
Usage: cargo xtask scaling

Prints the efficiency of data-parallel training on 2 to 1,024 processes as tables in Markdown: that of the exact
exchange and of a ring, by a formula and by a simulation, from step times that were measured on one machine.";

/// A training on one process.
struct Work {
    name: &'static str,
    parameters: f64,
    /// What a process computes in a step, with its images.
    share: &'static str,
    seconds: f64,
    /// Bytes of gradients that it adds in a second.
    adds: f64,
}

/// A step's times scatter by this share of them (standard deviation).
const SCATTER: f64 = 0.05;
/// The share of a step that is the backward pass of the last part: the gradients become final during it.
const LAST_BACKWARD: f64 = 0.33;
/// Pieces in which gradients leave during that pass, where the exchange overlaps.
const PIECES: usize = 8;
/// Simulated steps.
const STEPS: usize = 40;

/// A link of each process to all others, the same speed in both directions at once.
#[derive(Clone, Copy)]
struct Link {
    name: &'static str,
    bytes_per_second: f64,
    /// What a message costs beyond its bytes, in seconds.
    latency: f64,
}

/// How the gradients are added.
#[derive(Clone, Copy, PartialEq)]
enum Exchange {
    Exact,
    Ring,
    /// The exact one, in pieces that leave while the backward pass goes on.
    Overlapped,
}

const LINKS: [Link; 3] = [
    Link { name: "10 Gbit/s", bytes_per_second: 1.1e9, latency: 30e-6 },
    Link { name: "100 Gbit/s", bytes_per_second: 11e9, latency: 5e-6 },
    Link { name: "NVLink", bytes_per_second: 360e9, latency: 3e-6 },
];
const PROCESSES: [usize; 10] = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// The networks of `configs/ddpm-184.toml` and google/ddpm-cat-256.
const WORKS: [Work; 4] = [
    cores("1.7 M parameters, two CPU cores", 1_707_009.0, "16 images of 28x28", 0.159),
    cores("113.7 M parameters, two CPU cores", 113_673_219.0, "8 images of 256x256", 50.0),
    card("1.7 M parameters, a card", 1_707_009.0, "16 images of 28x28", 0.008),
    card("113.7 M parameters, a card", 113_673_219.0, "8 images of 256x256", 0.25),
];

/// Two cores, whose step was measured.
const fn cores(name: &'static str, parameters: f64, share: &'static str, seconds: f64) -> Work {
    Work { name, parameters, share, seconds, adds: 4e9 }
}

/// A card, of which only the order of magnitude is known.
const fn card(name: &'static str, parameters: f64, share: &'static str, seconds: f64) -> Work {
    Work { name, parameters, share, seconds, adds: 1e12 }
}

pub(crate) fn run(args: &[String]) -> crate::Result {
    if let Some(arg) = args.first() {
        let asked = arg == "--help" || arg == "-h";
        if asked {
            println!("{HELP}")
        } else {
            eprintln!("{HELP}")
        }
        return Ok(if asked { ExitCode::SUCCESS } else { ExitCode::from(2) });
    }
    WORKS.iter().for_each(|work| println!("{}", table(work)));
    Ok(ExitCode::SUCCESS)
}

/// A row for each number of processes: the simulated efficiency on each link, as it is and overlapped. Below it, how far
/// a ring and the formula are from that.
fn table(work: &Work) -> String {
    let head: Vec<String> =
        LINKS.iter().flat_map(|link| [link.name.to_owned(), format!("{}, overlapped", link.name)]).collect();
    let mut text = format!("{}, {} in {} s:\n\n", work.name, work.share, work.seconds);
    text += &format!("| processes | {} |\n| --: |{}\n", head.join(" | "), " --: |".repeat(head.len()));
    let (mut ring_off, mut formula_off) = (0.0f64, 0.0f64);
    for n in PROCESSES {
        let mut cells = vec![];
        for link in &LINKS {
            let of = |exchange| work.seconds / simulate(work, link, n, exchange, SCATTER);
            let exact = of(Exchange::Exact);
            cells.extend([exact, of(Exchange::Overlapped)]);
            ring_off = ring_off.max((of(Exchange::Ring) - exact).abs());
            formula_off = formula_off.max((work.seconds / formula(work, link, n) - exact).abs());
        }
        let cells: Vec<String> = cells.iter().map(|share| format!("{:.0} %", 100.0 * share)).collect();
        text += &format!("| {n} | {} |\n", cells.join(" | "));
    }
    let [ring, formula] = [ring_off, formula_off].map(|off| 100.0 * off);
    text + &format!("\nA ring differs from this by {ring:.1} points at most, the formula by {formula:.1}.\n")
}

/// The time of a step of `n` processes that exchange exactly: the slowest of them computes, then all send twice
/// (n - 1) / n of the gradients, in n - 1 messages each time, and add.
fn formula(work: &Work, link: &Link, n: usize) -> f64 {
    let (n, bytes) = (n as f64, 4.0 * work.parameters);
    let slowest = work.seconds * (1.0 + SCATTER * (2.0 * n.ln()).sqrt());
    slowest + 2.0 * (n - 1.0) * (link.latency + bytes / n / link.bytes_per_second) + bytes / work.adds
}

/// The mean time of a step, message by message.
fn simulate(work: &Work, link: &Link, n: usize, exchange: Exchange, scatter: f64) -> f64 {
    let mut random = Random(n as u64);
    let steps = if n > 128 { STEPS / 8 } else { STEPS };
    let total: f64 = (0..steps)
        .map(|_| {
            let computed: Vec<f64> = (0..n).map(|_| work.seconds * (scatter * random.normal()).exp()).collect();
            let bytes = 4.0 * work.parameters;
            let done = match exchange {
                Exchange::Exact => exact(link, computed, bytes, work.adds),
                Exchange::Ring => ring(link, computed, bytes),
                Exchange::Overlapped => overlapped(link, &computed, bytes, work),
            };
            done.into_iter().fold(0.0, f64::max)
        })
        .sum();
    total / steps as f64
}

/// When each process has the sum, if its gradients are ready at `ready`.
fn exact(link: &Link, ready: Vec<f64>, bytes: f64, adds: f64) -> Vec<f64> {
    let n = ready.len();
    let adding = bytes / adds;
    let arrived = all_to_all(link, ready, bytes / n as f64);
    all_to_all(link, arrived.into_iter().map(|time| time + adding).collect(), bytes / n as f64)
}

/// When each process has sent a message to every other and has got theirs. They begin with their right neighbour and
/// go round, so that nobody gets two at once; a link serves one message in each direction at a time.
fn all_to_all(link: &Link, ready: Vec<f64>, bytes: f64) -> Vec<f64> {
    let n = ready.len();
    let duration = link.latency + bytes / link.bytes_per_second;
    let (mut sent, mut got) = (ready.clone(), ready);
    for distance in 1..n {
        for (from, sent) in sent.iter_mut().enumerate() {
            let to = (from + distance) % n;
            let end = sent.max(got[to]) + duration;
            (*sent, got[to]) = (end, end);
        }
    }
    sent.into_iter().zip(got).map(|(sent, got)| sent.max(got)).collect()
}

/// A ring: each of n chunks goes round twice, once to be added and once to be told.
fn ring(link: &Link, mut ready: Vec<f64>, bytes: f64) -> Vec<f64> {
    let n = ready.len();
    let duration = link.latency + bytes / n as f64 / link.bytes_per_second;
    for _ in 0..2 * (n - 1) {
        let before = ready.clone();
        for (i, time) in ready.iter_mut().enumerate() {
            *time = before[i].max(before[(i + n - 1) % n]) + duration;
        }
    }
    ready
}

/// The exact exchange of one piece of the gradients after the other, each as soon as the backward pass has it.
fn overlapped(link: &Link, computed: &[f64], bytes: f64, work: &Work) -> Vec<f64> {
    let backward = work.seconds * LAST_BACKWARD;
    let mut free = vec![0.0; computed.len()];
    for piece in 1..=PIECES {
        let left = backward * (1.0 - piece as f64 / PIECES as f64);
        let ready = computed.iter().zip(&free).map(|(end, free)| (end - left).max(*free)).collect();
        free = exact(link, ready, bytes / PIECES as f64, work.adds);
    }
    free
}

/// SplitMix64 and the method of Box and Muller: a simulation needs no better ones.
struct Random(u64);

impl Random {
    /// From 0 (not included) to 1.
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64 + f64::EPSILON
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link { name: "", bytes_per_second: 1e9, latency: 1e-4 };

    #[test]
    fn without_scatter_the_simulation_is_the_formula() {
        let work = cores("", 1e6, "", 0.1);
        for n in [2, 3, 8, 100] {
            let paper = formula(&work, &LINK, n) - work.seconds * SCATTER * (2.0 * (n as f64).ln()).sqrt();
            let simulated = simulate(&work, &LINK, n, Exchange::Exact, 0.0);
            assert!((simulated / paper - 1.0).abs() < 1e-9, "{n} processes: {simulated} and {paper}");
            // a ring sends as much, and adds while it sends
            let ring = simulate(&work, &LINK, n, Exchange::Ring, 0.0);
            assert!((ring + 4e6 / work.adds - simulated).abs() < 1e-9, "{n} processes: {ring} and {simulated}");
        }
    }

    #[test]
    fn one_slow_process_delays_all() {
        let mut ready = vec![1.0; 8];
        ready[5] = 3.0;
        for done in [exact(&LINK, ready.clone(), 8e6, 1e9), ring(&LINK, ready, 8e6)] {
            assert!(done.iter().all(|time| *time > 3.0), "{done:?}");
        }
    }

    #[test]
    fn what_overlaps_ends_sooner_but_not_before_the_last_piece_is_sent() {
        let (work, computed, bytes) = (cores("", 2.5e7, "", 1.0), [1.0; 4], 1e8);
        let end = |done: Vec<f64>| done.into_iter().fold(0.0, f64::max);
        let apart = end(exact(&LINK, computed.to_vec(), bytes, work.adds));
        let overlapping = end(overlapped(&LINK, &computed, bytes, &work));
        let piece = end(exact(&LINK, computed.to_vec(), bytes / PIECES as f64, work.adds));
        assert!(overlapping < apart && overlapping >= piece, "{overlapping}, {apart}, {piece}");
    }

    #[test]
    fn normal_numbers_are_normal() {
        let mut random = Random(1);
        let numbers: Vec<f64> = (0..20_000).map(|_| random.normal()).collect();
        let mean = numbers.iter().sum::<f64>() / 2e4;
        let variance = numbers.iter().map(|x| x * x).sum::<f64>() / 2e4 - mean * mean;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean}, {variance}");
    }
}
