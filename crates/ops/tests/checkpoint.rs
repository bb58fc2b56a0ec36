//! Gradient checkpointing against the same network without.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{Result, Tensor, Var};
use common::{error, f32s};
use kakusan_ops::{Features, backward, checkpoint, mse_loss, network};

/// A convolution's weight, and a normalisation's two.
fn weights() -> Result<Vec<Var>> {
    let sizes: [&[usize]; 3] = [&[4, 4, 3, 3], &[4], &[4]];
    sizes.into_iter().zip(1..).map(|(dims, seed)| Var::from_tensor(&f32s(seed, dims)?)).collect()
}

/// A block with a way around it, which counts its runs, on features and a vector for each image.
fn block(
    weights: &[Var],
    runs: &Arc<AtomicUsize>,
) -> impl Fn([Features; 2]) -> Result<Features> + Send + Clone + 'static {
    let [conv, scale, shift] = [0, 1, 2].map(|i| weights[i].as_tensor().clone());
    let runs = runs.clone();
    move |[x, vector]| {
        runs.fetch_add(1, Ordering::Relaxed);
        let h = x.group_norm_silu(2, &scale, &shift, 1e-5)?.conv2d(&conv, None, 1)?;
        h.add_vector(&vector)?.add(&x)
    }
}

#[test]
fn gradients_are_those_without() -> Result<()> {
    let weights = weights()?;
    let [x, vector] = [Var::from_tensor(&f32s(7, &[3, 4, 6, 6])?)?, Var::from_tensor(&f32s(8, &[3, 4, 1, 1])?)?];
    let target = f32s(9, &[3, 4, 6, 6])?;
    // how deep the checkpoints are nested, and how often the block runs: each checkpoint runs what is inside it twice
    let mut expected: Option<Vec<Tensor>> = None;
    for (nested, runs_expected) in [(0, 2), (1, 4), (2, 6)] {
        let runs = Arc::new(AtomicUsize::new(0));
        let block = block(&weights, &runs);
        let y = network([x.as_tensor(), vector.as_tensor()], |[x, v]| match nested {
            0 => block([block([x, v.clone()])?, v]),
            1 => checkpoint([&checkpoint([&x, &v], block.clone())?, &v], block.clone()),
            _ => checkpoint([&x, &v], move |[x, v]| {
                checkpoint([&checkpoint([&x, &v], block.clone())?, &v], block.clone())
            }),
        })?;
        let gradients = backward(&mse_loss(&y, &target)?)?;
        let all = weights.iter().chain([&x, &vector]).map(|var| gradients.get(var).expect("a gradient").clone());
        let all: Vec<Tensor> = all.collect();
        assert_eq!(runs.load(Ordering::Relaxed), runs_expected);
        let expected = expected.get_or_insert_with(|| all.clone());
        for (got, expected) in all.iter().zip(expected.iter()) {
            assert!(error(got, expected)? < 1e-6, "{nested}");
        }
    }
    Ok(())
}

#[test]
fn it_runs_once_where_nothing_needs_a_gradient() -> Result<()> {
    let weights = weights()?;
    let frozen: Vec<Tensor> = weights.iter().map(|var| var.as_detached_tensor()).collect();
    let x = f32s(7, &[2, 4, 6, 6])?;
    let by_weights = [&weights[0].as_tensor().clone(), &frozen[0]].map(|weight| {
        let weight = weight.clone();
        let y = network([&x], |[x]| checkpoint([&x], move |[x]| x.conv2d(&weight, None, 1)));
        y.map(|y| y.track_op())
    });
    assert!(by_weights[0].as_ref().is_ok_and(|tracked| *tracked), "a weight needs a gradient");
    assert!(by_weights[1].as_ref().is_ok_and(|tracked| !*tracked), "nothing does");
    Ok(())
}
