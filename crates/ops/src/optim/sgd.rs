//! Stochastic gradient descent.

use std::cell::RefCell;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, Device, InplaceOp2, Layout, Result, Tensor, Var, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::kernels::cpu::denormals::FlushDenormals;
use crate::kernels::cpu::host::{arch, is_f32, numbers, with_numbers};
use crate::kernels::reference as compose;
use crate::optim::clip;

/// The settings of [`Sgd`]; names and defaults are torch's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdConfig {
    /// The learning rate, not negative.
    pub lr: f64,
    /// How much of the former steps goes on in a step, not negative; 0 remembers nothing.
    pub momentum: f64,
    /// This much of a parameter is added to its gradient, not negative.
    pub weight_decay: f64,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self { lr: 1e-3, momentum: 0.0, weight_decay: 0.0 }
    }
}

/// Gradient descent, with Polyak's momentum where it is set, as `torch.optim.SGD`.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Var};
/// use kakusan_ops::{Sgd, SgdConfig, mse_loss};
/// let x = Var::new(&[1f32, -1.0], &Device::Cpu)?;
/// let mut sgd = Sgd::new(vec![x.clone()], SgdConfig { lr: 0.5, ..Default::default() })?;
/// sgd.step_scaled(&mse_loss(&x, &x.zeros_like()?)?.backward()?, 1.0)?; // the gradient is x
/// assert_eq!(x.to_vec1::<f32>()?, [0.5, -0.5]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sgd {
    config: SgdConfig,
    params: Vec<Var>,
    /// Empty without momentum.
    buffers: Vec<Buffer>,
}

#[derive(Debug)]
enum Buffer {
    /// f32 on the CPU.
    Host(Vec<f32>),
    Device(Tensor),
}

impl Buffer {
    fn new(tensor: &Tensor) -> Result<Self> {
        match is_f32(tensor) {
            true => Ok(Self::Host(with_numbers(tensor, |numbers| Ok(numbers.to_vec()))?)),
            false => Ok(Self::Device(tensor.detach())),
        }
    }
}

impl Sgd {
    /// An optimiser of `params` that has taken no step.
    ///
    /// # Errors
    /// A setting out of its range, a parameter that is not of a floating point type.
    pub fn new(params: Vec<Var>, config: SgdConfig) -> Result<Self> {
        let SgdConfig { lr, momentum, weight_decay } = config;
        for (name, value) in [("the learning rate", lr), ("momentum", momentum), ("the weight decay", weight_decay)] {
            check_not_negative(name, value)?;
        }
        if let Some(param) = params.iter().find(|param| !param.dtype().is_float()) {
            bail!("sgd: a parameter {:?} is of dtype {:?}, not a floating point type", param.dims(), param.dtype())
        }
        let remembers = if momentum == 0.0 { &[] } else { params.as_slice() };
        let buffers =
            remembers.iter().map(|param| Buffer::new(&param.as_tensor().zeros_like()?)).collect::<Result<_>>()?;
        Ok(Self { config, params, buffers })
    }

    /// Moves every parameter against its gradient times `scale`.
    ///
    /// # Errors
    /// A parameter without a gradient in `grads`, or with one of another shape or dtype; then nothing was changed.
    pub fn step_scaled(&mut self, grads: &GradStore, scale: f64) -> Result<()> {
        let grads = clip::gradients("sgd", grads, &self.params)?;
        let mut buffers = self.buffers.iter_mut();
        let mut on_host = vec![];
        for (param, grad) in self.params.iter().zip(&grads) {
            let buffer = match buffers.next() {
                Some(Buffer::Device(buffer)) => Some(buffer),
                host if is_f32(param) => {
                    let buffer = host.and_then(|buffer| match buffer {
                        Buffer::Host(buffer) => Some(buffer.as_mut_slice()),
                        Buffer::Device(_) => None,
                    });
                    let step = InPlace { config: self.config, scale, buffer: RefCell::new(buffer.unwrap_or_default()) };
                    on_host.push((param, grad, step));
                    continue;
                }
                _ => None,
            };
            let (param_after, buffer_after) = compose::sgd(param, grad, buffer.as_deref(), &self.config, scale)?;
            param.set(&param_after.detach())?;
            if let Some(buffer) = buffer {
                *buffer = buffer_after.detach();
            }
        }
        // As Adam's: nobody waits for others with a parameter locked.
        on_host.into_par_iter().with_max_len(1).try_for_each(|(param, grad, step)| param.inplace_op2(grad, &step))
    }

    /// Sets the learning rate of the next step, as torch's schedulers do between steps.
    ///
    /// # Errors
    /// A rate that is negative or not finite; the one before stays.
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        check_not_negative("the learning rate", lr)?;
        self.config.lr = lr;
        Ok(())
    }

    /// A copy of what a checkpoint must hold: the momentum (torch's `momentum_buffer`) of each parameter in the order of
    /// [`Sgd::new`], nothing without momentum.
    ///
    /// # Errors
    /// Those of candle's copies.
    pub fn state(&self) -> Result<Vec<Tensor>> {
        let tensor = |(buffer, param): (&Buffer, &Var)| match buffer {
            Buffer::Host(numbers) => Tensor::from_slice(numbers, param.shape(), &Device::Cpu),
            Buffer::Device(tensor) => Ok(tensor.clone()),
        };
        self.buffers.iter().zip(&self.params).map(tensor).collect()
    }

    /// Goes on from where [`Sgd::state`] was taken.
    ///
    /// # Errors
    /// A state that does not fit the parameters in number, shape or dtype; then nothing was changed.
    pub fn load_state(&mut self, state: &[Tensor]) -> Result<()> {
        if state.len() != self.buffers.len() {
            bail!("sgd: a state of {} momenta, expected {}", state.len(), self.buffers.len())
        }
        let buffer = |(i, (param, buffer)): (usize, (&Var, &Tensor))| {
            if buffer.dims() != param.dims() || buffer.dtype() != param.dtype() {
                let (dims, dtype, expected, as_dtype) = (buffer.dims(), buffer.dtype(), param.dims(), param.dtype());
                bail!("sgd: parameter {i} is {expected:?} {as_dtype:?}, its momentum in the state {dims:?} {dtype:?}")
            }
            Buffer::new(&buffer.to_device(param.device())?)
        };
        self.buffers = self.params.iter().zip(state).enumerate().map(buffer).collect::<Result<_>>()?;
        Ok(())
    }
}

fn check_not_negative(name: &str, value: f64) -> Result<()> {
    if !(value >= 0.0 && value.is_finite()) {
        bail!("sgd: {name} is {value}, it must be a number from 0 on")
    }
    Ok(())
}

/// One step of one parameter, in place.
struct InPlace<'a> {
    config: SgdConfig,
    scale: f64,
    /// candle hands an in-place operation one tensor to write to; the momentum comes along here, or nothing does.
    buffer: RefCell<&'a mut [f32]>,
}

impl InplaceOp2 for InPlace<'_> {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn cpu_fwd(&self, param: &mut CpuStorage, lp: &Layout, grad: &CpuStorage, lg: &Layout) -> Result<()> {
        let grad = numbers::<f32>(grad, lg)?;
        let (CpuStorage::F32(param), Some((start, end))) = (param, lp.contiguous_offsets()) else {
            bail!("sgd: a parameter {:?} is strided or no longer f32", lp.shape())
        };
        let SgdConfig { lr, momentum, weight_decay } = self.config;
        let factors = [self.scale, weight_decay, momentum, lr].map(|factor| factor as f32);
        Kernel { param: &mut param[start..end], grad, buffer: &mut self.buffer.borrow_mut(), factors }.run();
        Ok(())
    }
}

struct Kernel<'a> {
    param: &'a mut [f32],
    grad: &'a [f32],
    /// Empty without momentum.
    buffer: &'a mut [f32],
    factors: [f32; 4],
}

impl Kernel<'_> {
    fn run(self) {
        let _flush = FlushDenormals::new();
        arch().dispatch(self);
    }
}

impl WithSimd for Kernel<'_> {
    type Output = ();

    /// Plain code that the compiler turns into the vectors of `S`; memory is what it waits for.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let [scale, weight_decay, momentum, lr] = self.factors;
        let pairs = self.param.iter_mut().zip(self.grad);
        if self.buffer.is_empty() {
            pairs.for_each(|(p, &g)| *p -= lr * (g * scale + weight_decay * *p));
        } else {
            pairs.zip(self.buffer).for_each(|((p, &g), buffer)| {
                *buffer = momentum * *buffer + (g * scale + weight_decay * *p);
                *p -= lr * *buffer;
            });
        }
    }
}
