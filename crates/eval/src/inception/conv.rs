//! Inception's convolution: with batch normalisation, which is folded into its weights, and ReLU.

use candle_core::{Device, Tensor};
use kakusan_ops::{Activation, ConvOptions, network};
use kakusan_pipeline::{Error, Result};

use super::GetTensor;

/// `eps` of torchvision's `BasicConv2d`.
const EPS: f64 = 0.001;

/// Gives the tensors by name.
pub(super) struct Loader<'a, 'b> {
    pub(super) tensor: &'a mut GetTensor<'b>,
    /// The weights of our own kernels so far.
    pub(super) weights: Vec<Tensor>,
}

impl Loader<'_, '_> {
    /// The convolution `name`, of `[in, out]` channels, with a kernel and padding in rows and columns.
    pub(super) fn conv(
        &mut self,
        name: &str,
        [ci, co]: [usize; 2],
        [kh, kw]: [usize; 2],
        stride: usize,
        padding: [usize; 2],
    ) -> Result<Conv> {
        let mut get = |part: &str, shape: &[usize]| -> Result<Vec<f32>> {
            let name = format!("{name}.{part}");
            let values = (self.tensor)(&name, shape)?;
            if values.len() != shape.iter().product::<usize>() || values.iter().any(|value| !value.is_finite()) {
                return Err(Error::Unfit(format!("{name}: it is not {shape:?} finite numbers")));
            }
            Ok(values)
        };
        let mut weight = get("conv.weight", &[co, ci, kh, kw])?;
        let (factor, summand) = (get("bn.weight", &[co])?, get("bn.bias", &[co])?);
        let (mean, variance) = (get("bn.running_mean", &[co])?, get("bn.running_var", &[co])?);
        let mut bias = Vec::with_capacity(co);
        for (out, weights) in weight.chunks_exact_mut(ci * kh * kw).enumerate() {
            let scale = f64::from(factor[out]) / (f64::from(variance[out]) + EPS).sqrt();
            weights.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * scale) as f32);
            bias.push((f64::from(summand[out]) - f64::from(mean[out]) * scale) as f32);
        }
        let weight = Tensor::from_vec(weight, (co, ci, kh, kw), &Device::Cpu)?;
        let bias = Tensor::from_vec(bias, co, &Device::Cpu)?;
        if kh == kw {
            self.weights.push(weight.clone());
        }
        Ok(Conv { weight, bias, stride, padding, square: kh == kw })
    }
}

pub(super) struct Conv {
    weight: Tensor,
    bias: Tensor,
    stride: usize,
    /// Above and below, left and right.
    padding: [usize; 2],
    square: bool,
}

impl Conv {
    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let [rows, columns] = self.padding;
        if self.square {
            let options = ConvOptions { stride: self.stride, padding: [rows, rows, columns, columns] };
            return network([x], |[x]| x.conv2d(&self.weight, Some(&self.bias), options)?.activate(Activation::Relu));
        }
        // our kernels are square
        let x = x.pad_with_zeros(2, rows, rows)?.pad_with_zeros(3, columns, columns)?;
        let y = x.conv2d(&self.weight, 0, self.stride, 1, 1)?;
        y.broadcast_add(&self.bias.reshape((1, self.bias.elem_count(), 1, 1))?)?.relu()
    }
}
