//! Several processes train together under `mpirun`. `cargo xtask ci mpi` runs these tests: they need the feature `mpi`
//! and an MPI library.

#[path = "support/command.rs"]
mod command;

use std::process::{Command, Stdio};

use command::{Done, UNEVEN, WEIGHTS, Workplace, bytes, words};

/// `mpirun -n size`, with the command and its arguments to follow.
fn mpirun(place: &Workplace, size: usize) -> Command {
    let user = Command::new("id").arg("-u").output().unwrap();
    let mut command = Command::new("mpirun");
    if user.stdout.trim_ascii() == b"0" {
        command.arg("--allow-run-as-root");
    }
    command.args(["--oversubscribe", "-n", &size.to_string()]);
    let plain = place.kakusan(&[]);
    command.current_dir(place.path(""));
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("RAYON_NUM_THREADS", "1");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A short training of uneven batches.
fn quick(out: &str, more: &[&str]) -> Vec<String> {
    Workplace::quick(out, &[&UNEVEN[..], &["--set", "train.epochs=2"], more].concat())
}

fn train(place: &Workplace, size: usize, args: &[&str]) -> Done {
    Done(mpirun(place, size).arg(env!("CARGO_BIN_EXE_kakusan")).args(args).output().unwrap())
}

#[test]
fn mpirun_trains_to_the_bytes_of_one_process_and_resumes_on_another_number() {
    let place = Workplace::new();
    Done(place.kakusan(&words(&quick("one", &[]))).output().unwrap()).expect(0);
    let same = |run: &str| {
        for file in [WEIGHTS, "checkpoints/checkpoint-4/optimizer.safetensors"] {
            assert!(
                bytes(&place.path(run).join(file)) == bytes(&place.path("one").join(file)),
                "{run}: {file} differs"
            );
        }
    };
    let said = train(&place, 2, &words(&quick("two", &[]))).expect(0).stdout();
    assert!(said.contains("Ranks: 2. A batch of 50 images has 7 parts: each rank computes 3 or 4."), "{said}");
    assert_eq!(said.matches("Epoch 2 of 2").count(), 1, "{said}");
    same("two");

    // three ranks stop in the middle of an epoch, two go on
    train(&place, 3, &words(&quick("three", &["--max-steps", "3"]))).expect(0);
    train(&place, 2, &["train", "--resume", "three", "--max-steps", "4"]).expect(0);
    same("three");

    // a rank with another seed is refused by name, and all end
    let args = quick("other", &[]);
    let mut command = mpirun(&place, 1);
    command.arg(env!("CARGO_BIN_EXE_kakusan")).args(&args);
    command.args([":", "-n", "1", env!("CARGO_BIN_EXE_kakusan")]).args(&args).args(["--seed", "5"]);
    let done = Done(command.output().unwrap());
    assert_ne!(done.code(), Some(0));
    assert!(done.stderr().contains("train.seed is `5` on rank 1, but `0` on rank 0"), "{}", done.stderr());
    assert!(!place.path("other").exists());

    // and one that fails ends all
    let mut command = mpirun(&place, 1);
    command.arg(env!("CARGO_BIN_EXE_kakusan")).args(&args);
    command.args([":", "-n", "1", env!("CARGO_BIN_EXE_kakusan")]).args(&args).args(["--set", "train.epoch=5"]);
    let done = Done(command.output().unwrap());
    assert!(done.code() != Some(0) && done.stderr().contains("rank 1 failed: "), "{}", done.stderr());
}
