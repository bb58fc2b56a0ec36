//! One pass over images: its sizes, the way it is computed, and its padded images.

use super::winograd;
use crate::kernels::cpu::host::lanes;
use crate::op::conv_shape::ConvShape;

/// How a pass is computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Way {
    /// Directly, vectors of output channels.
    Wide,
    /// Directly, vectors along the window, for few output channels.
    Narrow,
    /// By Winograd's method, where the images hold no extreme number; else as `Wide`.
    Winograd,
}

/// Images `[h, w, c]`, padded, summed with a `k` x `k` kernel to `[oh, ow, o]`.
///
/// The gradients of the images are such a pass too: over the gradients of the results, dilated where the stride was
/// more than 1, with the kernel turned round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    pub(super) c: usize,
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) o: usize,
    pub(super) k: usize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
    pub(super) top: usize,
    pub(super) left: usize,
    /// The first output channel that is computed, and their number is `o`: where a task has some of the channels.
    pub(super) first: usize,
    /// The first row of the results that is computed: where a band of an image is one task.
    from: usize,
    pub(super) oh: usize,
    pub(super) ow: usize,
    pub(super) way: Way,
    /// Height and width with all padding, at the lower right so much more that whole tiles fit.
    padded_h: usize,
    padded_w: usize,
}

impl Pass {
    /// From images to results. `bounded` says that the weights hold no extreme numbers.
    pub(super) fn forward(s: &ConvShape, bounded: bool) -> Self {
        let &ConvShape { ci: c, h, w, co: o, k, stride, top, left, oh, ow, .. } = s;
        let [h, w, oh, ow] = if k == 1 && stride == 1 { strips(h, w) } else { [h, w, oh, ow] };
        Self::new(Self { c, h, w, o, k, stride, dilation: 1, top, left, oh, ow, ..EMPTY }, bounded)
    }

    /// From the results' gradients to the images'.
    pub(super) fn backward(s: &ConvShape, bounded: bool) -> Self {
        let &ConvShape { ci: o, h: oh, w: ow, co: c, k, stride, top, left, oh: h, ow: w, .. } = s;
        let (top, left) = (k - 1 - top, k - 1 - left);
        let [h, w, oh, ow] = if k == 1 && stride == 1 { strips(h, w) } else { [h, w, oh, ow] };
        Self::new(Self { c, h, w, o, k, stride: 1, dilation: stride, top, left, oh, ow, ..EMPTY }, bounded)
    }

    fn new(pass: Self, bounded: bool) -> Self {
        let &Self { c, o, k, oh, ow, .. } = &pass;
        let lanes = lanes();
        let way = if bounded && winograd::worthwhile(&pass, lanes) {
            Way::Winograd
        } else if 2 * o <= lanes && k * c >= lanes {
            Way::Narrow
        } else {
            Way::Wide
        };
        let pass = Self { way, ..pass };
        Self { padded_h: pass.padded_len(oh), padded_w: pass.padded_len(ow), ..pass }
    }

    /// The length of padded images that `len` results need.
    fn padded_len(&self, len: usize) -> usize {
        match self.way {
            Way::Winograd => winograd::padded_len(self.k, len),
            _ => (len - 1) * self.stride + self.k,
        }
    }

    /// The pass that gives `rows` rows of the results, from row `from` on. Both are multiples of 4, or go to the end,
    /// so that Winograd's tiles are those of the whole.
    pub(super) fn band(&self, from: usize, rows: usize) -> Self {
        let pass = Self { from, oh: rows, ..*self };
        Self { padded_h: pass.padded_len(rows), ..pass }
    }

    /// The pass that gives `o` output channels of the results, from `first` on, which begins a panel.
    pub(super) fn channels(&self, first: usize, o: usize) -> Self {
        Self { first, o, ..*self }
    }

    /// Floats of an image, of a result, of a padded image and of its row.
    pub(super) fn image(&self) -> usize {
        self.c * self.h * self.w
    }

    pub(super) fn result(&self) -> usize {
        self.o * self.oh * self.ow
    }

    pub(super) fn padded(&self) -> usize {
        self.padded_h * self.row()
    }

    pub(super) fn row(&self) -> usize {
        self.padded_w * self.c
    }

    /// Floats of a window in one row of the kernel.
    pub(super) fn window(&self) -> usize {
        self.k * self.c
    }

    /// Images that go through the kernels together: several small ones, which spares loads of weights and sums.
    pub(super) fn group(&self) -> usize {
        match self.way {
            Way::Winograd => winograd::group(self),
            _ => (256 / (self.oh * self.ow)).clamp(1, 8),
        }
    }

    /// Whether images need no copy to be read as padded ones.
    pub(super) fn as_it_is(&self) -> bool {
        let begins = [self.top, self.left, self.from] == [0; 3] && self.dilation == 1;
        begins && (self.padded_h, self.padded_w) == (self.h, self.w)
    }

    /// How Winograd's tiles find their pixels: the size of an image, and the first row and column that they read, in
    /// the padding. Images with zeros between their pixels are read as padded ones.
    pub(super) fn tiled(&self) -> ([usize; 2], [isize; 2]) {
        if self.dilation > 1 {
            return ([self.padded_h, self.padded_w], [0, 0]);
        }
        ([self.h, self.w], [self.from as isize - self.top as isize, -(self.left as isize)])
    }

    /// Copies images `[n, h, w, c]` to `[n, padded h, padded w, c]`, zeros around them.
    #[inline(always)]
    pub(super) fn pad(&self, images: &[f32], padded: &mut [f32]) {
        let &Self { c, h, w, dilation, top, left, padded_h, padded_w, .. } = self;
        let (row, skipped) = (self.row(), self.from * self.stride);
        let columns = w.min((padded_w - left).div_ceil(dilation)); // those that are ever looked at
        for (image, padded) in images.chunks_exact(self.image()).zip(padded.chunks_exact_mut(self.padded())) {
            for (y, to) in padded.chunks_exact_mut(row).enumerate() {
                let from = match (y + skipped).checked_sub(top) {
                    Some(y) if y.is_multiple_of(dilation) && y / dilation < h => y / dilation,
                    _ => {
                        to.fill(0.0);
                        continue;
                    }
                };
                let from = &image[from * w * c..][..columns * c];
                if dilation == 1 {
                    to[..left * c].fill(0.0);
                    to[left * c..][..columns * c].copy_from_slice(from);
                    to[(left + columns) * c..].fill(0.0);
                } else {
                    to.fill(0.0);
                    for (x, pixel) in from.chunks_exact(c).enumerate() {
                        to[(left + x * dilation) * c..][..c].copy_from_slice(pixel);
                    }
                }
            }
            debug_assert_eq!(padded.len(), padded_h * row);
        }
    }
}

/// The sizes of a pass with a kernel of one pixel, which does not see rows: an image becomes some longer ones of one
/// row.
fn strips(h: usize, w: usize) -> [usize; 4] {
    const PIXELS: usize = 256;
    let rows = (1..=h).rev().find(|&rows| h.is_multiple_of(rows) && rows * w <= PIXELS).unwrap_or(1);
    [1, rows * w, 1, rows * w]
}

const EMPTY: Pass = Pass {
    c: 0,
    h: 0,
    w: 0,
    o: 0,
    k: 0,
    stride: 1,
    dilation: 1,
    top: 0,
    left: 0,
    first: 0,
    from: 0,
    oh: 0,
    ow: 0,
    way: Way::Wide,
    padded_h: 0,
    padded_w: 0,
};
