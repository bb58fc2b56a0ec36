//! Figures for the images of a diffusion model, in the feature space of a network: the Fréchet distance, the kernel
//! distance, precision and recall, the nearest training images.
//!
//! [`Classifier`] is a small network that is trained on the data; [`InceptionV3`] is the one of the FID. An
//! [`Evaluator`] holds the features of the reference and gives the [`Figures`] of images; [`Evaluation`] is the whole
//! result, with the figures of held-out images as yardstick.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod classifier;
mod evaluation;
mod evaluator;
mod features;
mod figures;
mod inception;
mod linalg;

pub use classifier::{ClassGuidance, Classifier, ClassifierConfig, Progress, Training};
pub use evaluation::{EVAL_FILE, Evaluation, HeldOut, NetworkUsed, Sampling};
pub use evaluator::{ClassShare, Evaluator, Figures, Options};
pub use features::{Embedding, FeatureNetwork, Features, Images, Pixels, embed};
pub use figures::{
    Gaussian, KernelDistance, Neighbour, PrecisionRecall, Subsets, kernel_distance, nearest, precision_recall,
};
pub use inception::{GetTensor, InceptionV3, InceptionVariant};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
