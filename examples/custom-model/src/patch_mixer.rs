//! The model: this file is all that a new one takes.

use candle_core::{D, DType, Result as CandleResult, Tensor};
use candle_nn::{LayerNorm, Linear, Module, layer_norm, linear};
use kakusan_models::{Error, Model, ModelConfig, Result, VarBuilder, candle_builder, fields};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The configuration of [`PatchMixer`]: the keys of `[model]` and of `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchMixerConfig {
    /// Height and width of the images.
    pub sample_size: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Height and width of a patch; divides `sample_size`.
    pub patch_size: usize,
    /// Numbers that describe a patch within the network; even.
    pub width: usize,
    /// Mixer blocks.
    pub layers: usize,
}

impl Default for PatchMixerConfig {
    fn default() -> Self {
        Self { sample_size: 28, in_channels: 1, out_channels: 1, patch_size: 4, width: 64, layers: 2 }
    }
}

impl PatchMixerConfig {
    /// Refuses what the network cannot be built with, naming the key.
    fn check(&self) -> Result<()> {
        let refuse = |reason: String| Err(Error::Config { origin: self.class_name().to_owned(), reason });
        let Self { sample_size, in_channels, out_channels, patch_size, width, layers } = *self;
        let sizes = [("in_channels", in_channels), ("out_channels", out_channels), ("layers", layers)];
        for (key, size) in sizes.into_iter().chain([("sample_size", sample_size), ("patch_size", patch_size)]) {
            if !(1..=1024).contains(&size) {
                return refuse(format!("{key} is {size}; it must be between 1 and 1024"));
            }
        }
        if !sample_size.is_multiple_of(patch_size) {
            return refuse(format!("patch_size is {patch_size}; it must divide sample_size, which is {sample_size}"));
        }
        if !(2..=8192).contains(&width) || width % 2 == 1 {
            return refuse(format!("width is {width}; it must be an even number between 2 and 8192"));
        }
        Ok(())
    }
}

impl ModelConfig for PatchMixerConfig {
    fn class_name(&self) -> &str {
        PatchMixer::CLASS_NAME
    }

    fn to_map(&self) -> Map<String, Value> {
        fields(self)
    }

    fn default_map(&self) -> Map<String, Value> {
        fields(&Self::default())
    }

    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Model>> {
        Ok(Box::new(PatchMixer::new(self, vb)?))
    }

    fn sample_shape(&self) -> Result<[usize; 3]> {
        Ok([self.in_channels, self.sample_size, self.sample_size])
    }
}

/// An MLP-Mixer (Tolstikhin et al. 2021) over the patches of an image, conditioned on the timestep. All of it are
/// layers and operations of candle.
#[derive(Debug, Clone)]
pub struct PatchMixer {
    config: PatchMixerConfig,
    embed: Linear,
    time: [Linear; 2],
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
}

/// Mixes between patches, then within each patch.
#[derive(Debug, Clone)]
struct Block {
    token_norm: LayerNorm,
    tokens: [Linear; 2],
    channel_norm: LayerNorm,
    channels: [Linear; 2],
}

impl PatchMixer {
    pub const CLASS_NAME: &'static str = "PatchMixer";
    const EPS: f64 = 1e-6;

    /// Builds the network from its weights.
    pub fn new(config: &PatchMixerConfig, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let vb = candle_builder(vb);
        let (width, patches) = (config.width, (config.sample_size / config.patch_size).pow(2));
        let area = config.patch_size.pow(2);
        let mlp = |size: usize, hidden: usize, name: &str, vb: &candle_nn::VarBuilder| -> CandleResult<[Linear; 2]> {
            let vb = vb.pp(name);
            Ok([linear(size, hidden, vb.pp("0"))?, linear(hidden, size, vb.pp("1"))?])
        };
        let block = |i: usize| -> CandleResult<Block> {
            let vb = vb.pp("blocks").pp(i);
            Ok(Block {
                token_norm: layer_norm(width, Self::EPS, vb.pp("token_norm"))?,
                tokens: mlp(patches, 2 * patches, "tokens", &vb)?,
                channel_norm: layer_norm(width, Self::EPS, vb.pp("channel_norm"))?,
                channels: mlp(width, 4 * width, "channels", &vb)?,
            })
        };
        Ok(Self {
            config: config.clone(),
            embed: linear(config.in_channels * area, width, vb.pp("embed"))?,
            time: mlp(width, 2 * width, "time", &vb)?,
            blocks: (0..config.layers).map(block).collect::<CandleResult<_>>()?,
            norm: layer_norm(width, Self::EPS, vb.pp("norm"))?,
            head: linear(width, config.out_channels * area, vb.pp("head"))?,
        })
    }

    /// `[b, c, s, s] -> [b, patches, c * p * p]`
    fn patches(&self, x: &Tensor) -> CandleResult<Tensor> {
        let (b, c, size, _) = x.dims4()?;
        let p = self.config.patch_size;
        let n = size / p;
        x.reshape((b, c, n, p, n, p))?.permute((0, 2, 4, 1, 3, 5))?.reshape((b, n * n, c * p * p))
    }

    /// `[b, patches, c * p * p] -> [b, c, s, s]`
    fn images(&self, x: &Tensor) -> CandleResult<Tensor> {
        let PatchMixerConfig { sample_size: size, out_channels: c, patch_size: p, .. } = self.config;
        let (b, n) = (x.dim(0)?, size / p);
        x.reshape((b, n, n, c, p, p))?.permute((0, 3, 1, 4, 2, 5))?.reshape((b, c, size, size))
    }

    /// Sines and cosines of the timesteps `[b]`, through two layers: `[b, 1, width]`.
    fn time(&self, timestep: &Tensor) -> CandleResult<Tensor> {
        let half = self.config.width / 2;
        let frequencies: Vec<f32> = (0..half).map(|k| 10_000f32.powf(-(k as f32) / half as f32)).collect();
        let frequencies = Tensor::from_vec(frequencies, (1, half), timestep.device())?;
        let angles = timestep.to_dtype(DType::F32)?.reshape(((), 1))?.broadcast_mul(&frequencies)?;
        mlp(&self.time, &Tensor::cat(&[angles.sin()?, angles.cos()?], 1)?)?.unsqueeze(1)
    }

    fn predict(&self, x: &Tensor, timestep: &Tensor) -> CandleResult<Tensor> {
        let mut h = self.embed.forward(&self.patches(x)?)?.broadcast_add(&self.time(timestep)?)?;
        for block in &self.blocks {
            let tokens = normalise(&block.token_norm, &h)?.transpose(1, 2)?.contiguous()?; // [b, width, patches]
            h = (h + mlp(&block.tokens, &tokens)?.transpose(1, 2)?)?;
            h = (&h + mlp(&block.channels, &normalise(&block.channel_norm, &h)?)?)?;
        }
        self.images(&self.head.forward(&normalise(&self.norm, &h)?)?)
    }
}

impl Model for PatchMixer {
    fn config(&self) -> &dyn ModelConfig {
        &self.config
    }

    fn forward(&self, x: &Tensor, timestep: &Tensor, _labels: Option<&Tensor>) -> Result<Tensor> {
        let [c, h, w] = self.config.sample_shape()?;
        if x.dims().get(1..) != Some(&[c, h, w]) {
            let reason = format!("the input has shape {:?}, expected [b, {c}, {h}, {w}]", x.dims());
            return Err(Error::Input { model: Self::CLASS_NAME, reason });
        }
        Ok(self.predict(x, timestep)?)
    }
}

fn mlp([first, second]: &[Linear; 2], x: &Tensor) -> CandleResult<Tensor> {
    second.forward(&first.forward(x)?.silu()?)
}

/// The layer's `forward`, composed of operations that have gradients: candle_nn's own, like its `RmsNorm` and
/// `softmax_last_dim`, is one fused operation without a backward pass, and cuts the gradient without an error.
fn normalise(norm: &LayerNorm, x: &Tensor) -> CandleResult<Tensor> {
    let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let deviation = (x.sqr()?.mean_keepdim(D::Minus1)? + norm.eps())?.sqrt()?;
    let x = x.broadcast_div(&deviation)?.broadcast_mul(norm.weight())?;
    match norm.bias() {
        Some(bias) => x.broadcast_add(bias),
        None => Ok(x),
    }
}
