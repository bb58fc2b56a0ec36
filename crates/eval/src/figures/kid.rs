//! The kernel distance (Bińkowski et al. 2018).

use kakusan_pipeline::{Error, Result};
use kakusan_rng::Generator;

use crate::Features;
use crate::linalg::gram;

/// The squared maximum mean discrepancy with the kernel `(x·y / d + 1)³`: unbiased, so that it may be negative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KernelDistance {
    /// The mean over the subsets.
    pub mean: f64,
    /// The standard deviation over the subsets, as torch-fidelity reports it.
    pub std: f64,
}

/// The subsets of a [`kernel_distance`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subsets {
    /// How many.
    pub count: usize,
    /// Images in each, of either set; at most half of a set, or else the subsets would be nearly the same.
    pub size: usize,
}

impl Default for Subsets {
    /// As torch-fidelity: 100 subsets of 1,000 images.
    fn default() -> Self {
        Self { count: 100, size: 1000 }
    }
}

/// The kernel distance between two sets of features, over random subsets of both.
///
/// A subset is the beginning of a permutation ([`Generator::randperm`]), drawn for `a` and then for `b`.
///
/// # Errors
/// When a set has fewer than four images, or the dimensions differ.
pub fn kernel_distance(a: &Features, b: &Features, subsets: Subsets, rng: &mut Generator) -> Result<KernelDistance> {
    let (d, least) = (a.dim(), a.len().min(b.len()));
    if b.dim() != d {
        return Err(Error::Unfit(format!("features of {d} and of {} numbers cannot be compared", b.dim())));
    }
    let size = subsets.size.min(least / 2);
    if size < 2 || subsets.count == 0 {
        return Err(Error::Unfit(format!("the kernel distance needs at least 4 images, and there are {least}")));
    }
    let mut take = |features: &Features| -> Vec<f64> {
        let chosen = rng.randperm(features.len()).into_iter().take(size);
        chosen.flat_map(|i| features.row(i).iter().map(|&x| f64::from(x))).collect()
    };
    let mut distances = Vec::with_capacity(subsets.count);
    for _ in 0..subsets.count {
        let (a, b) = (take(a), take(b));
        distances.push(discrepancy(&a, &b, size, d));
    }
    let count = distances.len() as f64;
    let mean = distances.iter().sum::<f64>() / count;
    let variance = distances.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
    Ok(KernelDistance { mean, std: variance.sqrt() })
}

/// The unbiased estimate of the squared discrepancy of two sets of `m` rows.
fn discrepancy(a: &[f64], b: &[f64], m: usize, d: usize) -> f64 {
    let kernel = |product: f64| (product / d as f64 + 1.0).powi(3);
    let sum = |a: &[f64], b: &[f64], diagonal: bool| {
        let products = gram(a, b, d);
        let kept = products.iter().enumerate().filter(|(i, _)| diagonal || i / m != i % m);
        kept.map(|(_, &product)| kernel(product)).sum::<f64>()
    };
    let m = m as f64;
    (sum(a, a, false) + sum(b, b, false)) / (m * (m - 1.0)) - 2.0 * sum(a, b, true) / (m * m)
}
