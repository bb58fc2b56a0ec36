//! The sizes of one pass over the images, and the layouts that its kernels read.

use pulp::Simd;
use rayon::prelude::*;

use super::ConvShape;
use super::micro::Strides;
use super::transpose::transpose;
use super::winograd;
use crate::host::lanes;
use crate::scratch::Aligned;

/// How a pass is computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Way {
    /// Directly, vectors of output channels.
    Wide,
    /// Directly, vectors along the window, for few output channels.
    Narrow,
    /// By Winograd's method, where a group of images holds no extreme number; else as `Wide`.
    Winograd,
}

/// Images `[c, h, w]`, padded by `pad`, summed with a `k` x `k` kernel to `[o, oh, ow]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    pub(super) c: usize,
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) o: usize,
    pub(super) k: usize,
    pub(super) pad: usize,
    pub(super) oh: usize,
    pub(super) ow: usize,
    pub(super) way: Way,
    /// Height and width with all padding, at the lower right so much more that whole tiles fit.
    padded_h: usize,
    padded_w: usize,
}

impl Pass {
    /// From images to results, and from the results' gradients to the images'. `tame` says that the weights hold no
    /// extreme numbers.
    pub(super) fn both(s: &ConvShape, tame: bool) -> (Self, Self) {
        let lanes = lanes();
        let winograd = tame && winograd::pays(s, lanes);
        let way = |c: usize, o: usize| match winograd {
            true => Way::Winograd,
            false if 2 * o <= lanes && s.k * c >= lanes => Way::Narrow,
            false => Way::Wide,
        };
        let &ConvShape { ci, h, w, co, k, pad, oh, ow, .. } = s;
        let back = k - 1 - pad;
        // what tiles read of the images, and of the gradients both as images and as kernels
        let tiled = |len: usize| if winograd { len } else { 0 };
        let padded = |len: usize, out: usize| (len + 2 * pad).max(tiled(winograd::reach(out).1));
        let padded_back = |len: usize, out: usize| {
            let (images, kernels) = (winograd::reach(out).1, back + winograd::reach(len).0);
            (len + 2 * back).max(tiled(images.max(kernels)))
        };
        let (padded_h, padded_w) = (padded(h, oh), padded(w, ow));
        let forward = Self { c: ci, h, w, o: co, k, pad, oh, ow, way: way(ci, co), padded_h, padded_w };
        let (padded_h, padded_w) = (padded_back(oh, h), padded_back(ow, w));
        let way = way(co, ci);
        (forward, Self { c: co, h: oh, w: ow, o: ci, k, pad: back, oh: h, ow: w, way, padded_h, padded_w })
    }

    pub(super) fn image(&self) -> usize {
        self.c * self.h * self.w
    }

    pub(super) fn result(&self) -> usize {
        self.o * self.oh * self.ow
    }

    /// Floats of a padded image, channels last.
    pub(super) fn padded(&self) -> usize {
        self.padded_h * self.row()
    }

    pub(super) fn row(&self) -> usize {
        self.padded_w * self.c
    }

    pub(super) fn strides(&self) -> Strides {
        Strides { image: self.padded(), row: self.row(), pixel: self.c }
    }

    /// Floats of a window in one row of the kernel.
    pub(super) fn window(&self) -> usize {
        self.k * self.c
    }

    /// Floats of the sums of one image, `[panels, pixels, channels]`.
    pub(super) fn sums(&self) -> usize {
        if self.way == Way::Narrow { 0 } else { self.oh * self.ow * self.o.next_multiple_of(lanes()) }
    }

    /// Images that go through the kernels together: several small ones, which spares loads of weights and sums.
    pub(super) fn group(&self) -> usize {
        match self.way {
            Way::Winograd => winograd::group(self),
            _ => (256 / (self.oh * self.ow)).clamp(1, 8),
        }
    }
}

/// The weights of a pass in the order in which its kernels read them.
pub(super) struct Weights {
    /// Panels of two vectors of output channels, each `[k, window, channels]`, the last filled up with zeros to a whole
    /// vector; `[o, k, window]` for a narrow pass.
    direct: Aligned,
    winograd: Option<Aligned>,
}

/// [`Weights`], lent to the tasks.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    pub(super) direct: &'a [f32],
    pub(super) winograd: Option<&'a [f32]>,
}

impl Weights {
    /// `weight` tells the weight from output channel, input channel, row and column.
    pub(super) fn new(pass: &Pass, weight: impl Fn(usize, usize, usize, usize) -> f32 + Sync) -> Self {
        let Pass { c, o, k, .. } = *pass;
        let lanes = lanes();
        let (panel, channels) = if pass.way == Way::Narrow { (1, o) } else { (2 * lanes, o.next_multiple_of(lanes)) };
        let mut direct = Aligned::zeros(k * pass.window() * channels);
        direct.get_mut().par_chunks_mut(k * pass.window() * panel).enumerate().for_each(|(p, packed)| {
            let width = packed.len() / (k * pass.window());
            for lane in 0..width.min(o - p * panel) {
                for ky in 0..k {
                    for kx in 0..k {
                        for c_in in 0..c {
                            packed[((ky * k + kx) * c + c_in) * width + lane] = weight(p * panel + lane, c_in, ky, kx);
                        }
                    }
                }
            }
        });
        let winograd = (pass.way == Way::Winograd).then(|| winograd::weights(pass, direct.get()));
        Self { direct, winograd }
    }

    pub(super) fn lend(&self) -> Packed<'_> {
        Packed { direct: self.direct.get(), winograd: self.winograd.as_ref().map(Aligned::get) }
    }
}

/// Copies images `[n, c, h, w]` to `[n, padded h, padded w, c]`, zeros around them.
#[inline(always)]
pub(super) fn pad(pass: &Pass, images: &[f32], padded: &mut [f32]) {
    let Pass { c, h, w, pad, .. } = *pass;
    let Strides { image: image_len, row, .. } = pass.strides();
    let count = images.len() / pass.image();
    if image_len > pass.image() {
        padded[..count * image_len].fill(0.0);
    }
    for (image, padded) in images.chunks_exact(pass.image()).zip(padded.chunks_exact_mut(image_len)) {
        for y in 0..h {
            let line = &mut padded[(y + pad) * row + pad * c..][..w * c];
            transpose(&image[y * w..], h * w, line, c, c, w);
        }
    }
}

/// Copies sums `[panels, n, pixels, channels]` to results `[n, o, pixels]` and adds the bias.
#[inline(always)]
pub(super) fn unpack<S: Simd>(_: S, pass: &Pass, sums: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let (o, pixels, panel) = (pass.o, pass.oh * pass.ow, 2 * S::F32_LANES);
    let count = y.len() / pass.result();
    for first in (0..o).step_by(panel) {
        let width = panel.min((o - first).next_multiple_of(S::F32_LANES));
        let sums = &sums[count * pixels * first..][..count * pixels * width];
        for (image, sums) in sums.chunks_exact(pixels * width).enumerate() {
            let channels = width.min(o - first);
            let y = &mut y[(image * o + first) * pixels..][..channels * pixels];
            transpose(sums, width, y, pixels, pixels, channels);
            if let Some(bias) = bias {
                for (y, &bias) in y.chunks_exact_mut(pixels).zip(&bias[first..]) {
                    y.iter_mut().for_each(|y| *y += bias);
                }
            }
        }
    }
}
