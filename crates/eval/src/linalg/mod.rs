//! The linear algebra of the figures, in f64: products of features, a factor of a covariance, eigenvalues.
//!
//! Every number is computed by one thread in one order, so that results do not depend on the number of threads.

mod cholesky;
mod eigen;
mod gram;

pub(crate) use cholesky::cholesky;
pub(crate) use eigen::symmetric_eigenvalues;
pub(crate) use gram::gram;

/// The transpose of `a` `[rows, columns]`.
pub(crate) fn transpose(a: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    let mut transposed = vec![0.0; a.len()];
    for (i, row) in a.chunks_exact(columns.max(1)).enumerate() {
        for (j, &value) in row.iter().enumerate() {
            transposed[j * rows + i] = value;
        }
    }
    transposed
}
