//! Convolution of images that lie channels last, and its gradients.

mod direct;
mod micro;
mod pass;
pub(crate) mod run;
pub(crate) mod weights;
mod winograd;
