//! Several processes train together, started by torchrun's variables and connected by TCP.
#![cfg(unix)]

#[path = "support/command.rs"]
mod command;

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use command::{Done, UNEVEN, WEIGHTS, Workplace, bytes, words};

/// The command with `args`, as rank `rank` of `size` at `port`.
fn rank(place: &Workplace, args: &[&str], rank: usize, size: usize, port: u16) -> Command {
    let mut command = place.kakusan(args);
    command.env("RANK", rank.to_string()).env("WORLD_SIZE", size.to_string()).env("LOCAL_RANK", rank.to_string());
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string()).env("RAYON_NUM_THREADS", "1");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts the ranks. `change` may change the command of one.
fn start(place: &Workplace, args: &[&str], size: usize, change: impl Fn(usize, &mut Command)) -> Vec<Child> {
    let port = free_port();
    let start = |i| {
        let mut command = rank(place, args, i, size, port);
        change(i, &mut command);
        command.spawn().unwrap()
    };
    (0..size).map(start).collect()
}

/// Waits for all ranks, for at most a minute: none must hang.
fn end(ranks: Vec<Child>) -> Vec<Done> {
    let begin = Instant::now();
    let end = |mut rank: Child| {
        while rank.try_wait().unwrap().is_none() {
            if begin.elapsed() > Duration::from_secs(120) {
                let _ = rank.kill();
                panic!("a rank hangs: {}", Done(rank.wait_with_output().unwrap()).stderr());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Done(rank.wait_with_output().unwrap())
    };
    ranks.into_iter().map(end).collect()
}

/// A short training of uneven batches.
fn quick(out: &str, more: &[&str]) -> Vec<String> {
    Workplace::quick(out, &[&UNEVEN[..], &["--set", "train.epochs=1"], more].concat())
}

fn steps_done(place: &Workplace, run: &str) -> usize {
    fs::read_to_string(place.path(run).join("metrics.jsonl")).unwrap_or_default().lines().count()
}

fn wait_for_steps(place: &Workplace, run: &str, steps: usize) {
    let begin = Instant::now();
    while steps_done(place, run) < steps {
        assert!(begin.elapsed() < Duration::from_secs(120), "the training does not get on");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn two_and_three_processes_train_to_the_bytes_of_one() {
    let place = Workplace::new();
    Done(place.kakusan(&words(&quick("one", &[]))).output().unwrap()).expect(0);
    for size in [2, 3] {
        let out = format!("by{size}");
        let done = end(start(&place, &words(&quick(&out, &[])), size, |_, _| {}));
        for (rank, done) in done.into_iter().enumerate() {
            let done = done.expect(0);
            let (said, warned) = (done.stdout(), done.stderr());
            if rank > 0 {
                assert!(said.is_empty() && warned.is_empty(), "rank {rank} prints: {said}{warned}");
                continue;
            }
            let each = if size == 2 { "3 or 4" } else { "2 or 3" };
            let ranks = format!("Ranks: {size}. A batch of 50 images has 7 parts: each rank computes {each}.");
            assert!(said.contains(&ranks), "{said}");
            assert!(said.contains(" % of their time was spent exchanging gradients and waiting."), "{said}");
        }
        for file in
            [WEIGHTS, "checkpoints/checkpoint-2/optimizer.safetensors", "checkpoints/checkpoint-2/progress.json"]
        {
            assert!(
                bytes(&place.path(&out).join(file)) == bytes(&place.path("one").join(file)),
                "{out}: {file} differs"
            );
        }
        let metrics = fs::read_to_string(place.path(&out).join("metrics.jsonl")).unwrap();
        assert!(metrics.lines().all(|line| line.contains("\"waited\":")), "{metrics}");
    }
}

#[test]
fn a_rank_that_dies_ends_all_and_the_run_resumes_on_another_number() {
    let place = Workplace::new();
    let long = ["--set", "train.epochs=1000"];
    // rank 2 dies
    let mut ranks = start(&place, &words(&quick("run", &long)), 3, |_, _| {});
    wait_for_steps(&place, "run", 3);
    ranks[2].kill().unwrap();
    let done = end(ranks);
    let said = done[0].stderr();
    assert!(said.contains("error: rank 2 ") && said.contains("its connection was closed"), "{said}");
    assert!(said.contains("train --resume run, by any number of processes"), "{said}");
    assert_eq!((done[0].code(), done[1].code(), done[1].stderr().as_str()), (Some(1), Some(1), ""));

    // rank 0 dies: the others say so
    let resume = ["train", "--resume", "run"];
    let mut ranks = start(&place, &resume, 2, |_, _| {});
    let steps = steps_done(&place, "run");
    wait_for_steps(&place, "run", steps + 2);
    ranks[0].kill().unwrap();
    let done = end(ranks);
    assert_eq!(done[1].code(), Some(1));
    assert!(done[1].stderr().contains("error: rank 0 "), "{}", done[1].stderr());

    // Ctrl-C at one rank saves and stops all
    let ranks = start(&place, &resume, 2, |_, _| {});
    let steps = steps_done(&place, "run");
    wait_for_steps(&place, "run", steps + 2);
    let signal = Command::new("kill").args(["-INT", &ranks[1].id().to_string()]).status().unwrap();
    assert!(signal.success());
    let done = end(ranks);
    assert_eq!((done[0].code(), done[1].code()), (Some(130), Some(130)));
    assert!(done[0].stdout().contains("Stopped and saved."), "{}", done[0].stdout());

    let epochs = format!("train.epochs={}", steps_done(&place, "run") / 2 + 1);
    let to_the_end = [&resume[..], &["--set", &epochs]].concat();
    end(start(&place, &to_the_end, 3, |_, _| {})).into_iter().for_each(|done| drop(done.expect(0)));
    Done(place.kakusan(&words(&quick("one", &["--set", &epochs]))).output().unwrap()).expect(0);
    assert!(bytes(&place.path("run").join(WEIGHTS)) == bytes(&place.path("one").join(WEIGHTS)), "the weights differ");
}

#[test]
fn what_does_not_belong_together_is_refused_and_named() {
    let place = Workplace::new();
    let args = quick("run", &[]);
    let refused = |change: &dyn Fn(usize, &mut Command), words_of_it: &[&str]| {
        let done = end(start(&place, &words(&args), 2, change));
        let said = done[0].stderr();
        assert!(words_of_it.iter().all(|words| said.contains(words)), "{said}");
        assert!(done.iter().all(|done| matches!(done.code(), Some(1 | 2))), "{said}");
        assert!(done[1].stderr().is_empty(), "{}", done[1].stderr());
        assert!(!place.path("run").exists());
    };
    let other = |more: &'static [&'static str]| {
        move |rank: usize, command: &mut Command| {
            if rank == 1 {
                command.args(more);
            }
        }
    };
    refused(&other(&["--seed", "5"]), &["train.seed is `5` on rank 1, but `0` on rank 0"]);
    refused(
        &other(&["--set", "data.drawn_per_class=41"]),
        &["on rank 1, but", "the number of images is `123` on rank 1"],
    );
    refused(&other(&["--vectors", "scalar"]), &["the instruction set is `scalar` on rank 1", "--vectors to all"]);
    refused(&other(&["--set", "train.epoch=3"]), &["rank 1 failed: "]);

    // settings that cannot be meant
    let alone = |variables: &[(&str, &str)]| {
        let mut command = place.kakusan(&words(&args));
        command.envs(variables.iter().copied());
        Done(command.output().unwrap()).expect(2).stderr()
    };
    let said = alone(&[("RANK", "0")]);
    assert!(said.contains("RANK is set, but WORLD_SIZE is not"), "{said}");
    let group = [("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")];
    assert!(alone(&group).contains("MASTER_ADDR is set, but MASTER_PORT is not"));
    if !cfg!(feature = "mpi") {
        let said = alone(&[("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2")]);
        assert!(said.contains("was built without MPI") && said.contains("--features mpi"), "{said}");
    }
    let cuda = quick("run", &["--device", "cuda"]);
    let said = end(start(&place, &words(&cuda), 2, |_, _| {}))[0].stderr();
    assert!(cfg!(feature = "cuda") || said.contains("this build has no CUDA"), "{said}");
    let nccl = quick("run", &["--device", "cpu", "--all-reduce", "nccl"]);
    let said = end(start(&place, &words(&nccl), 2, |_, _| {}))[0].stderr();
    assert!(said.contains("NCCL adds on CUDA cards") && said.contains("--all-reduce tree"), "{said}");
}

/// Two hosts as far as the processes know: two network namespaces, connected by 100 Mbit/s. It needs root, `ip` and
/// `tc`: `cargo test --workspace --test ranks -- --ignored`.
#[test]
#[ignore = "needs root, ip and tc"]
fn two_hosts_with_a_slow_network_train_to_the_bytes_of_one() {
    /// Deletes the namespaces, and with them the link.
    struct Hosts([String; 2]);
    impl Drop for Hosts {
        fn drop(&mut self) {
            self.0.iter().for_each(|host| ip(&format!("netns delete {host}")));
        }
    }
    fn ip(line: &str) {
        let status = Command::new("ip").args(line.split_whitespace()).status().expect("ip, of iproute2");
        assert!(status.success(), "ip {line}");
    }
    let id = std::process::id();
    let hosts = Hosts([0, 1].map(|i| format!("kakusan-{id}-{i}")));
    hosts.0.iter().for_each(|host| ip(&format!("netns add {host}")));
    let [first, second] = &hosts.0;
    ip(&format!("link add link0 netns {first} type veth peer name link1 netns {second}"));
    for (i, host) in hosts.0.iter().enumerate() {
        ip(&format!("-n {host} link set lo up"));
        ip(&format!("-n {host} address add 10.77.0.{}/24 dev link{i}", i + 1));
        ip(&format!("-n {host} link set link{i} up"));
        ip(&format!("netns exec {host} tc qdisc add dev link{i} root tbf rate 100mbit burst 64kb latency 50ms"));
    }

    let place = Workplace::new();
    let args = quick("two", &[]);
    let start = |(i, host): (usize, &String)| {
        let inner = rank(&place, &words(&args), i, 2, 29500);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", host]).arg(inner.get_program()).args(inner.get_args());
        command.current_dir(place.path(""));
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("MASTER_ADDR", "10.77.0.1");
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let done = end(hosts.0.iter().enumerate().map(start).collect());
    let said = done[0].stdout();
    done.into_iter().for_each(|done| drop(done.expect(0)));
    assert!(said.contains(" % of their time was spent exchanging gradients and waiting."), "{said}");
    Done(place.kakusan(&words(&quick("one", &[]))).output().unwrap()).expect(0);
    assert!(bytes(&place.path("two").join(WEIGHTS)) == bytes(&place.path("one").join(WEIGHTS)), "the weights differ");
}
