use std::f32::consts::PI;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::Init;
use kakusan_ops::Features;

use super::{ClassEmbedType, TimeEmbeddingType, UNet2DConfig, unfit};
use crate::layers::{Linear, embedding};
use crate::{TensorSpec, VarBuilder};

/// diffusers' `time_proj`: from timesteps `[b]` to vectors `[b, width]`.
#[derive(Debug, Clone)]
pub(super) enum TimeProjection {
    Positional { width: usize, freq_shift: i64, flip_sin_to_cos: bool },
    Fourier { frequencies: Tensor },
    Learned { table: Tensor },
}

impl TimeProjection {
    pub(super) fn new(config: &UNet2DConfig, vb: VarBuilder) -> crate::Result<Self> {
        let width = config.block_out_channels[0];
        Ok(match config.time_embedding_type {
            TimeEmbeddingType::Positional => {
                let &UNet2DConfig { freq_shift, flip_sin_to_cos, .. } = config;
                Self::Positional { width, freq_shift, flip_sin_to_cos }
            }
            TimeEmbeddingType::Fourier => {
                let init = Init::Randn { mean: 0.0, stdev: 16.0 };
                let spec = TensorSpec { init, trained: false, draws: 2 }; // as `W`, and then as `weight`
                Self::Fourier { frequencies: vb.get_with_hints(width, "weight", spec)?.detach() }
            }
            TimeEmbeddingType::Learned => {
                Self::Learned { table: embedding(config.num_train_timesteps.unwrap_or(0), width, vb)? }
            }
        })
    }

    /// The length of the vectors.
    pub(super) fn width(&self) -> Result<usize> {
        match self {
            Self::Positional { width, .. } => Ok(*width),
            Self::Fourier { frequencies } => Ok(2 * frequencies.dim(0)?),
            Self::Learned { table } => table.dim(1),
        }
    }

    /// `what` names the `inputs` in errors: "timestep" or "label".
    pub(super) fn forward(&self, inputs: &Tensor, what: &str) -> crate::Result<Tensor> {
        let row = match self {
            Self::Learned { table } => return look_up(table, inputs, what),
            Self::Positional { .. } => None,
            Self::Fourier { frequencies } => Some(frequencies.to_dtype(DType::F32)?.to_vec1::<f32>()?),
        };
        let inputs_f32 = inputs.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        if matches!(self, Self::Fourier { .. }) {
            check_logarithms(&inputs_f32, what)?;
        }
        let mut numbers = Vec::with_capacity(inputs_f32.len() * self.width()?);
        for input in &inputs_f32 {
            match self {
                Self::Positional { width, freq_shift, flip_sin_to_cos } => {
                    positional(*input, *width, *freq_shift, *flip_sin_to_cos, &mut numbers);
                }
                _ => fourier(*input, row.as_deref().unwrap_or_default(), &mut numbers),
            }
        }
        Ok(Tensor::from_vec(numbers, (inputs_f32.len(), self.width()?), inputs.device())?)
    }
}

// In f32 where torch computes in f32, because the angles are large: a timestep of 1000 times a rounding error is seen.
// Its functions are right to the last bit nearly always, and so are those of f64, rounded.

/// Sines and cosines of `timestep` at frequencies from 1 down to 1/10000 (Vaswani et al. 2017; Ho et al. 2020).
fn positional(timestep: f32, width: usize, freq_shift: i64, flip_sin_to_cos: bool, to: &mut Vec<f32>) {
    let half = width / 2;
    let angle = |k: usize| {
        let exponent = -(10_000f64.ln() as f32) * k as f32 / (half as i64 - freq_shift) as f32;
        f64::from(timestep * f64::from(exponent).exp() as f32)
    };
    let sines = (0..half).map(|k| angle(k).sin() as f32);
    let cosines = (0..half).map(|k| angle(k).cos() as f32);
    if flip_sin_to_cos {
        to.extend(cosines.chain(sines));
    } else {
        to.extend(sines.chain(cosines));
    }
    to.extend((width % 2 == 1).then_some(0.0));
}

/// Sines and cosines of the logarithm of `sigma` (Tancik et al. 2020; Song et al. 2021).
fn fourier(sigma: f32, frequencies: &[f32], to: &mut Vec<f32>) {
    let log = f64::from(sigma).ln() as f32;
    let angle = |frequency: &f32| f64::from(log * frequency * 2.0 * PI);
    to.extend(frequencies.iter().map(|frequency| angle(frequency).sin() as f32));
    to.extend(frequencies.iter().map(|frequency| angle(frequency).cos() as f32));
}

/// Refuses timesteps that the embedding does not have.
pub(super) fn check_timesteps(config: &UNet2DConfig, timesteps: &[f32]) -> crate::Result<()> {
    match config.time_embedding_type {
        TimeEmbeddingType::Positional => Ok(()),
        TimeEmbeddingType::Fourier => check_logarithms(timesteps, "timestep"),
        TimeEmbeddingType::Learned => {
            let timesteps: Vec<f64> = timesteps.iter().map(|&timestep| timestep.into()).collect();
            check_rows(&timesteps, config.num_train_timesteps.unwrap_or(0), "timestep")
        }
    }
}

fn check_logarithms(inputs: &[f32], what: &str) -> crate::Result<()> {
    match inputs.iter().find(|input| **input <= 0.0 || input.is_nan()) {
        Some(wrong) => {
            Err(unfit(format!("{what} {wrong} has no logarithm; a fourier embedding needs positive numbers")))
        }
        None => Ok(()),
    }
}

fn check_rows(numbers: &[f64], rows: usize, what: &str) -> crate::Result<()> {
    let is_row = |number: f64| number.fract() == 0.0 && (0.0..rows as f64).contains(&number);
    match numbers.iter().find(|&&number| !is_row(number)) {
        Some(wrong) => {
            let last = rows.saturating_sub(1);
            Err(unfit(format!("{what} {wrong} is out of range; expected a whole number from 0 to {last}")))
        }
        None => Ok(()),
    }
}

/// The rows of `table` that `numbers` `[b]` name.
pub(crate) fn look_up(table: &Tensor, numbers: &Tensor, what: &str) -> crate::Result<Tensor> {
    let rows = table.dim(0)?;
    let whole = numbers.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    check_rows(&whole, rows, what)?;
    let whole: Vec<u32> = whole.iter().map(|&number| number as u32).collect();
    let count = whole.len();
    Ok(table.index_select(&Tensor::from_vec(whole, count, table.device())?, 0)?)
}

/// diffusers' `TimestepEmbedding`: two linear layers with SiLU between them.
#[derive(Debug, Clone)]
pub(super) struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    pub(super) fn new(inputs: usize, width: usize, vb: VarBuilder) -> crate::Result<Self> {
        Ok(Self {
            linear_1: Linear::new(inputs, width, vb.pp("linear_1"))?,
            linear_2: Linear::new(width, width, vb.pp("linear_2"))?,
        })
    }

    /// `[b, inputs, 1, 1] -> [b, width, 1, 1]`
    pub(super) fn forward(&self, x: &Features) -> Result<Features> {
        self.linear_2.forward(&self.linear_1.forward(x)?.silu()?)
    }
}

/// diffusers' `class_embedding`.
#[derive(Debug, Clone)]
pub(super) enum ClassEmbedding {
    None,
    Table(Tensor),
    Timestep(TimestepEmbedding),
    Identity { width: usize },
}

impl ClassEmbedding {
    pub(super) fn new(config: &UNet2DConfig, inputs: usize, vb: VarBuilder) -> crate::Result<Self> {
        let width = config.time_embedding_width();
        Ok(match (config.class_embed_type, config.num_class_embeds) {
            (None, None) => Self::None,
            (None, Some(classes)) => Self::Table(embedding(classes, width, vb)?),
            (Some(ClassEmbedType::Timestep), _) => Self::Timestep(TimestepEmbedding::new(inputs, width, vb)?),
            (Some(ClassEmbedType::Identity), _) => Self::Identity { width },
        })
    }

    /// The network's input for the labels of `batch` images: `[batch, n]`, or `None` for a model without classes.
    pub(super) fn input(
        &self,
        labels: Option<&Tensor>,
        batch: usize,
        projection: &TimeProjection,
    ) -> crate::Result<Option<Tensor>> {
        let labels = match (self, labels) {
            (Self::None, None) => return Ok(None),
            (Self::None, Some(_)) => {
                return Err(unfit("it has no classes, but got labels; omit them, or set num_class_embeds".into()));
            }
            (_, None) => {
                return Err(unfit("it is conditioned on classes, but got no labels; pass one for each image".into()));
            }
            (_, Some(labels)) => labels,
        };
        let expected = match self {
            Self::Identity { width } => vec![batch, *width],
            _ => vec![batch],
        };
        if labels.dims() != expected {
            return Err(unfit(format!("the labels have shape {:?}, expected {expected:?}", labels.dims())));
        }
        Ok(Some(match self {
            Self::Table(table) => look_up(table, labels, "label")?,
            Self::Timestep(_) => projection.forward(labels, "label")?,
            _ => labels.clone(),
        }))
    }

    /// From [`input`](Self::input), now `[b, n, 1, 1]`, to what is added to the embedding of the timestep.
    pub(super) fn forward(&self, input: &Features) -> Result<Features> {
        match self {
            Self::Timestep(embedding) => embedding.forward(input),
            _ => Ok(input.clone()),
        }
    }
}
