//! Many threads, many small steps: no call waits for ever, and none sees what belongs to another.

mod common;

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, Var};
use common::f32s;
use kakusan_ops::{PreparedWeights, backward, conv2d, gradients, mse_loss, network};

/// A caller without news for so long hangs: a step takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes `steps` gradients of one large weight on many tiny images, so that the threads do little but add up; reports
/// each.
fn steps(steps: usize, seed: u64, received: &Sender<Result<()>>) -> Result<()> {
    let weight = Var::from_tensor(&f32s(seed, &[64, 64, 5, 5])?)?;
    let x = f32s(seed + 1, &[128, 64, 1, 1])?;
    let mut first: Option<Vec<f32>> = None;
    for _ in 0..steps {
        let _prepared = PreparedWeights::new([weight.as_tensor()]);
        let (_, grads) = gradients(128, &Device::Cpu, |range| -> Result<Tensor> {
            let x = x.narrow(0, range.start, range.len())?;
            mse_loss(&network([&x], |[x]| x.conv2d(&weight, None, 2))?, &x)
        })?;
        let grad = grads.get(&weight).expect("a gradient").flatten_all()?.to_vec1()?;
        assert!(first.get_or_insert_with(|| grad.clone()) == &grad, "the same step gave another gradient");
        let _ = received.send(Ok(()));
    }
    Ok(())
}

/// Two callers on a pool of 16 threads; fails where neither has finished a step for [`PATIENCE`].
fn two_callers(count: usize) {
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(16).build().expect("a pool"));
    let (sender, received) = channel();
    for seed in [1, 2] {
        let (pool, sender) = (pool.clone(), sender.clone());
        // Not joined: where it hangs, the test ends without it.
        std::thread::spawn(move || {
            if let Err(error) = pool.install(|| steps(count, seed, &sender)) {
                let _ = sender.send(Err(error));
            }
        });
    }
    drop(sender);
    let mut done = 0;
    loop {
        match received.recv_timeout(PATIENCE) {
            Ok(step) => step.expect("a step"),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("after {done} of {} steps the threads wait for ever", 2 * count),
        }
        done += 1;
    }
    assert_eq!(done, 2 * count);
}

#[test]
fn two_callers_on_many_threads_do_not_wait_for_each_other() {
    two_callers(300);
}

#[test]
#[ignore = "a minute on two cores: cargo test -p kakusan-ops --test stress -- --ignored"]
fn two_callers_for_3000_steps() {
    two_callers(3000);
}

/// Runs `call` again and again on one of two threads while the other and, whenever it waits, itself take up `job`s.
fn among_jobs(call: impl Fn() -> Result<()> + Sync, job: impl Fn(u64) -> Result<()> + Sync) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a pool");
    for round in 0..20 {
        let (sender, received) = channel();
        pool.in_place_scope(|scope| {
            let (call, job) = (&call, &job);
            let first = sender.clone();
            scope.spawn(move |_| (0..5).for_each(|_| first.send(call()).expect("a listener")));
            for i in 0..30 {
                let sender = sender.clone();
                scope.spawn(move |_| sender.send(job(30 * round + i)).expect("a listener"));
            }
        });
        drop(sender);
        received.into_iter().collect::<Result<Vec<_>>>()?;
    }
    Ok(())
}

/// A single image that all threads share.
fn large_image() -> Result<(Tensor, Var)> {
    Ok((f32s(1, &[1, 32, 48, 48])?, Var::from_tensor(&f32s(2, &[32, 32, 5, 5])?)?))
}

#[test]
fn a_job_taken_up_while_weights_are_prepared_sees_its_own() -> Result<()> {
    let (image, weight) = large_image()?;
    let call = || -> Result<()> {
        let _prepared = PreparedWeights::new([weight.as_tensor()]);
        (0..4).try_for_each(|_| conv2d(&image, &weight, None, 2).map(drop))
    };
    let x = f32s(3, &[1, 4, 6, 6])?;
    let job = |seed| {
        let weight = Var::from_tensor(&f32s(seed, &[4, 4, 5, 5])?)?;
        let before = conv2d(&x, &weight, None, 2)?;
        weight.set(&weight.affine(2.0, 0.0)?)?;
        let after = conv2d(&x, &weight, None, 2)?;
        let exact = before.affine(2.0, 0.0)?.sub(&after)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert_eq!(exact, 0.0, "weights that changed were used as they had been");
        Ok(())
    };
    among_jobs(call, job)
}

#[test]
fn a_job_taken_up_in_a_backward_pass_leaves_no_gradients() -> Result<()> {
    let (image, weight) = large_image()?;
    let call = || {
        let y = network([&image], |[x]| x.conv2d(&weight, None, 2)?.conv2d(&weight, None, 2))?;
        let grads = backward(&y.sqr()?.sum_all()?)?;
        assert_eq!(grads.get_ids().filter(|&&id| id == weight.id()).count(), 1);
        Ok(())
    };
    let x = f32s(3, &[1, 4, 6, 6])?;
    let job = |seed| {
        let weight = Var::from_tensor(&f32s(seed, &[4, 4, 5, 5])?)?;
        let y = network([&x], |[x]| x.conv2d(&weight, None, 2))?;
        assert!(y.sum_all()?.backward().is_err(), "the weight's gradient went to another call");
        Ok(())
    };
    among_jobs(call, job)
}

/// The identity, with a backward pass that panics.
struct Panics;

impl CustomOp1 for Panics {
    fn name(&self) -> &'static str {
        "panics"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((x.clone(), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        panic!("in the backward pass")
    }
}

#[test]
fn a_panic_in_the_backward_pass_leaves_nothing_for_the_next_call() -> Result<()> {
    let weight = Var::from_tensor(&f32s(1, &[4, 4, 5, 5])?)?;
    let x = f32s(2, &[1, 4, 6, 6])?;
    let loss = || network([&x], |[x]| x.conv2d(&weight, None, 2))?.sum_all();
    let broken = loss()?.apply_op1(Panics)?;
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| backward(&broken)));
    assert!(caught.is_err());
    assert!(loss()?.backward().is_err(), "gradients were left where no call collects them");
    assert!(backward(&loss()?)?.get(&weight).is_some());
    Ok(())
}
