//! The weights of a pass in the order in which its kernels read them.

use candle_core::Result;
use rayon::prelude::*;

use super::pass::{Pass, Way};
use super::winograd;
use crate::kernels::cpu::buffer::Buffer;
use crate::kernels::cpu::denormals::FlushDenormals;
use crate::kernels::cpu::host::{lanes, min_tasks};
use crate::kernels::cpu::scratch::with_scratch;
use crate::kernels::cpu::transpose::transpose;
use crate::op::conv_shape::ConvShape;

/// A pass and its weights.
pub(crate) struct Prepared {
    pub(super) pass: Pass,
    /// Panels of two vectors of output channels, each `[k, window, channels]`, the last filled up with zeros to a whole
    /// vector; `[o, k, window]` for a narrow pass. Winograd's method has them for images that are not bounded.
    pub(super) direct: Buffer,
    /// The weights' values for Winograd's method.
    pub(super) winograd: Option<Buffer>,
}

impl Prepared {
    /// For the pass from images to results.
    pub(crate) fn forward(s: &ConvShape, weight: &[f32]) -> Result<Self> {
        let &ConvShape { ci, k, .. } = s;
        let pass = Pass::forward(s, winograd::bounded(weight));
        Self::new(pass, Kernels { weight, by_output: ci * k * k, by_input: k * k, turned: false })
    }

    /// For the pass from the results' gradients to the images', with the kernel turned round.
    pub(crate) fn backward(s: &ConvShape, weight: &[f32]) -> Result<Self> {
        let &ConvShape { ci, k, .. } = s;
        let pass = Pass::backward(s, winograd::bounded(weight));
        Self::new(pass, Kernels { weight, by_output: k * k, by_input: ci * k * k, turned: true })
    }

    fn new(pass: Pass, kernels: Kernels) -> Result<Self> {
        let Pass { o, k, .. } = pass;
        let lanes = lanes();
        let (panel, channels) = if pass.way == Way::Narrow { (1, o) } else { (2 * lanes, o.next_multiple_of(lanes)) };
        let mut direct = Buffer::zeros(k * pass.window() * channels)?;
        let panels = direct.par_chunks_mut(k * pass.window() * panel).enumerate().with_min_len(min_tasks());
        panels.for_each(|(p, packed)| {
            let outputs = panel.min(o - p * panel);
            kernels.pack(&pass, p * panel, outputs, packed);
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

/// Weights `[., ., k, k]` as they are, and where in them the channels of a pass are.
struct Kernels<'a> {
    weight: &'a [f32],
    /// From one output channel of the pass to the next, and from one input channel.
    by_output: usize,
    by_input: usize,
    /// Whether the pass reads each kernel from its end.
    turned: bool,
}

impl Kernels<'_> {
    /// Packs `outputs` channels from `first` on as `[k, window, width]`, where that may be wider than there are
    /// channels.
    fn pack(&self, pass: &Pass, first: usize, outputs: usize, packed: &mut [f32]) {
        let &Self { weight, by_output, by_input, turned } = self;
        let (c, places) = (pass.c, pass.k * pass.k);
        let width = packed.len() / (places * c);
        with_scratch([c * places * width], |[side_by_side]| {
            // [output, input, place] -> [input, place, output], in one call if the inputs' kernels are contiguous
            let inputs = if by_input == places { c } else { 1 };
            for from in (0..c).step_by(inputs) {
                let weight = &weight[first * by_output + from * by_input..];
                let to = &mut side_by_side[from * places * width..];
                transpose(weight, by_output, to, width, outputs, inputs * places);
            }
            // -> [place, input, output]
            for (place, packed) in packed.chunks_exact_mut(c * width).enumerate() {
                let place = if turned { places - 1 - place } else { place };
                for (input, packed) in packed.chunks_exact_mut(width).enumerate() {
                    packed[..outputs].copy_from_slice(&side_by_side[(input * places + place) * width..][..outputs]);
                }
            }
        });
    }
}
