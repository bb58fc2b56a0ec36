//! What features tell of a set of images, compared with another set.

mod frechet;
mod kid;
mod neighbours;

pub use frechet::Gaussian;
pub use kid::{KernelDistance, Subsets, kernel_distance};
pub use neighbours::{Neighbour, PrecisionRecall, nearest, precision_recall};
