//! The Fréchet distance between Gaussians (Heusel et al. 2017, eq. 6).

use kakusan_pipeline::{Error, Result};

use crate::Features;
use crate::linalg::{cholesky, gram, symmetric_eigenvalues, transpose};

/// Rows whose products are added at a time, which bounds the memory in f64.
const ROWS: usize = 4096;

/// Mean and covariance of features.
#[derive(Debug, Clone, PartialEq)]
pub struct Gaussian {
    mean: Vec<f64>,
    /// `[d, d]`, with n - 1 as the divisor.
    covariance: Vec<f64>,
}

impl Gaussian {
    /// The Gaussian of features, in f64: mean and unbiased covariance, as `numpy.cov`.
    ///
    /// # Errors
    /// When there are fewer than two rows.
    pub fn of(features: &Features) -> Result<Self> {
        let (n, d) = (features.len(), features.dim());
        if n < 2 {
            return Err(Error::Unfit(format!("a covariance needs at least 2 images, and there are {n}")));
        }
        let mut mean = vec![0.0; d];
        for row in features.rows() {
            mean.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
        }
        mean.iter_mut().for_each(|sum| *sum /= n as f64);
        let mut covariance = vec![0.0; d * d];
        for rows in features.values().chunks(ROWS * d.max(1)) {
            let centred: Vec<f64> =
                rows.iter().zip(mean.iter().cycle()).map(|(&x, mean)| f64::from(x) - mean).collect();
            let count = centred.len() / d.max(1);
            let columns = transpose(&centred, count, d);
            covariance.iter_mut().zip(gram(&columns, &columns, count)).for_each(|(sum, more)| *sum += more);
        }
        covariance.iter_mut().for_each(|sum| *sum /= (n - 1) as f64);
        Ok(Self { mean, covariance })
    }

    /// The mean `[d]`.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The covariance `[d, d]`.
    pub fn covariance(&self) -> &[f64] {
        &self.covariance
    }

    /// The Fréchet distance to another Gaussian: `|m₁ - m₂|² + tr(C₁ + C₂ - 2 (C₁ C₂)^½)`.
    ///
    /// With `C₁ = L Lᵀ` the product `C₁ C₂` has the eigenvalues of the symmetric `Lᵀ C₂ L`, so the trace of its root is
    /// the sum of their roots. This holds for singular covariances, too, to which pytorch-fid adds `1e-6` if its root
    /// of the product fails.
    ///
    /// # Errors
    /// When the dimensions differ, or a number is not finite.
    pub fn distance(&self, other: &Self) -> Result<f64> {
        let d = self.mean.len();
        if other.mean.len() != d {
            return Err(Error::Unfit(format!(
                "features of {d} and of {} numbers cannot be compared",
                other.mean.len()
            )));
        }
        let means: f64 = self.mean.iter().zip(&other.mean).map(|(a, b)| (a - b) * (a - b)).sum();
        let trace = |covariance: &[f64]| (0..d).map(|i| covariance[i * d + i]).sum::<f64>();
        let (factor, rank) = cholesky(&self.covariance, d);
        let columns = transpose(&factor, d, rank);
        let product = gram(&columns, &gram(&columns, &other.covariance, d), d); // other is symmetric
        let roots = symmetric_eigenvalues(product, rank)
            .map(|values| values.into_iter().map(|x| x.max(0.0).sqrt()).sum::<f64>());
        match roots.map(|roots| means + trace(&self.covariance) + trace(&other.covariance) - 2.0 * roots) {
            Some(distance) if distance.is_finite() => Ok(distance.max(0.0)), // rounding
            _ => Err(Error::NotFinite("the features hold numbers that are not finite".to_owned())),
        }
    }
}
