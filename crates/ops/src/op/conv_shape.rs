//! What a convolution is asked to do, checked.

use candle_core::{Result, Tensor, bail};

use crate::check::{elements, image_dims, same_dtype};

/// Stride and zero padding of a convolution; `2.into()` is a padding of 2 on all sides with stride 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvOptions {
    /// Pixels from one result to the next in either direction, at least 1.
    pub stride: usize,
    /// Rows of zeros above and below, columns of zeros left and right; each below the kernel's size.
    pub padding: [usize; 4],
}

impl From<usize> for ConvOptions {
    fn from(padding: usize) -> Self {
        Self { stride: 1, padding: [padding; 4] }
    }
}

/// The sizes of a convolution.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvShape {
    pub(crate) b: usize,
    pub(crate) ci: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
    pub(crate) co: usize,
    pub(crate) k: usize,
    pub(crate) stride: usize,
    pub(crate) top: usize,
    pub(crate) left: usize,
    pub(crate) bottom: usize,
    pub(crate) right: usize,
    pub(crate) oh: usize,
    pub(crate) ow: usize,
}

impl ConvShape {
    /// `dims` is `[b, ci, h, w]`.
    pub(crate) fn new(
        op: &str,
        dims: [usize; 4],
        weight: &Tensor,
        bias: Option<&Tensor>,
        options: ConvOptions,
    ) -> Result<Self> {
        let [b, ci, h, w] = dims;
        let (co, k) = match *weight.dims() {
            [co, c, k, l] if co > 0 && k > 0 && k == l && c == ci => (co, k),
            [_, c, _, _] if c != ci => {
                bail!("{op}: the images have {ci} channels, the weight {:?} is for {c}", weight.dims())
            }
            _ => bail!("{op}: expected a weight [out channels, {ci}, k, k], got {:?}", weight.dims()),
        };
        if let Some(bias) = bias {
            same_dtype(op, weight, bias)?;
            if bias.dims() != [co] {
                bail!("{op}: expected a bias [{co}], one for each output channel, got {:?}", bias.dims())
            }
        }
        let ConvOptions { stride, padding } = options;
        let [top, bottom, left, right] = padding;
        if let Some(padding) = padding.into_iter().find(|&padding| padding >= k) {
            bail!("{op}: the padding is {padding}, it must be below the kernel's size, {k}")
        }
        if stride == 0 {
            bail!("{op}: the stride is 0, it must be at least 1")
        }
        if h + top + bottom < k || w + left + right < k {
            bail!("{op}: a kernel of {k}x{k} does not fit into images of {h}x{w} padded by {padding:?}")
        }
        let (oh, ow) = ((h + top + bottom - k) / stride + 1, (w + left + right - k) / stride + 1);
        elements(op, &[b, co, oh, ow])?;
        elements(op, &[b, ci, h, w])?;
        elements(op, &[co, ci, k, k])?;
        Ok(Self { b, ci, h, w, co, k, stride, top, left, bottom, right, oh, ow })
    }

    /// What the layout of prepared weights depends on.
    pub(crate) fn key(&self) -> [usize; 6] {
        let &Self { h, w, ci, co, stride, top, left, .. } = self;
        [h, w, ci, co, stride, top * 256 + left] // paddings are below the kernel's size
    }

    /// The same for tensors, before anything is copied.
    pub(crate) fn check(op: &str, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, o: ConvOptions) -> Result<()> {
        let (b, ci, h, w) = image_dims(op, x)?;
        same_dtype(op, x, weight)?;
        Self::new(op, [b, ci, h, w], weight, bias, o).map(drop)
    }
}
