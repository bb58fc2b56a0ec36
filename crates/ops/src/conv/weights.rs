//! The weights of a pass in the order in which its kernels read them.

use candle_core::Result;
use rayon::prelude::*;

use super::pass::{Pass, Way};
use super::shape::ConvShape;
use super::winograd;
use crate::buffer::Buffer;
use crate::denormals::FlushDenormals;
use crate::host::{grain, lanes};

/// A pass and its weights.
pub(super) struct Prepared {
    pub(super) pass: Pass,
    /// Panels of two vectors of output channels, each `[k, window, channels]`, the last filled up with zeros to a whole
    /// vector; `[o, k, window]` for a narrow pass. Winograd's method has them where an image turns out to be wild.
    pub(super) direct: Buffer,
    /// The weights' values for Winograd's method.
    pub(super) winograd: Option<Buffer>,
}

impl Prepared {
    /// For the pass from images to results.
    pub(super) fn forward(s: &ConvShape, weight: &[f32]) -> Result<Self> {
        let &ConvShape { ci, k, .. } = s;
        let pass = Pass::forward(s, winograd::tame(weight));
        Self::new(pass, |o, c, ky, kx| weight[((o * ci + c) * k + ky) * k + kx])
    }

    /// For the pass from the results' gradients to the images', with the kernel turned round.
    pub(super) fn back(s: &ConvShape, weight: &[f32]) -> Result<Self> {
        let &ConvShape { ci, k, .. } = s;
        let pass = Pass::back(s, winograd::tame(weight));
        Self::new(pass, |o, c, ky, kx| weight[((c * ci + o) * k + (k - 1 - ky)) * k + (k - 1 - kx)])
    }

    /// `weight` tells the weight from output channel, input channel, row and column.
    fn new(pass: Pass, weight: impl Fn(usize, usize, usize, usize) -> f32 + Sync) -> Result<Self> {
        let Pass { c, o, k, .. } = pass;
        let lanes = lanes();
        let (panel, channels) = if pass.way == Way::Narrow { (1, o) } else { (2 * lanes, o.next_multiple_of(lanes)) };
        let mut direct = Buffer::zeros(k * pass.window() * channels)?;
        let panels = direct.par_chunks_mut(k * pass.window() * panel).enumerate().with_min_len(grain());
        panels.for_each(|(p, packed)| {
            let width = packed.len() / (k * pass.window());
            let lanes = width.min(o - p * panel);
            // the innermost loop writes what lies side by side, and reads a few lines again and again
            for (row, packed) in packed.chunks_exact_mut(c * width).enumerate() {
                let (ky, kx) = (row / k, row % k);
                for (c_in, packed) in packed.chunks_exact_mut(width).enumerate() {
                    for (lane, packed) in packed[..lanes].iter_mut().enumerate() {
                        *packed = weight(p * panel + lane, c_in, ky, kx);
                    }
                }
            }
        });
        let winograd = match pass.way {
            Way::Winograd => {
                let _flush = FlushDenormals::new();
                Some(winograd::weights(&pass, &direct)?)
            }
            _ => None,
        };
        Ok(Self { pass, direct, winograd })
    }
}
