use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::layers::Conv2d;
use crate::{Error, Model, ModelConfig, Result, VarBuilder, fields};

/// The configuration of [`BasicUNet`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct BasicUNetConfig {
    /// Height and width of the images, a multiple of 4.
    pub sample_size: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
}

impl Default for BasicUNetConfig {
    /// The tutorial's: one channel of 28 x 28.
    fn default() -> Self {
        Self { sample_size: 28, in_channels: 1, out_channels: 1 }
    }
}

impl BasicUNetConfig {
    /// The largest accepted image side and number of channels.
    const MAX: usize = 4096;

    /// Refuses values that are out of their ranges, naming the key.
    fn check_ranges(&self) -> Result<()> {
        let refuse = |reason: String| Err(Error::Config { origin: BasicUNet::CLASS_NAME.into(), reason });
        if self.sample_size == 0 || !self.sample_size.is_multiple_of(4) || self.sample_size > Self::MAX {
            let size = self.sample_size;
            return refuse(format!("sample_size is {size}; it must be a multiple of 4 (the network halves it twice)"));
        }
        for (key, channels) in [("in_channels", self.in_channels), ("out_channels", self.out_channels)] {
            if channels == 0 || channels > Self::MAX {
                return refuse(format!("{key} is {channels}; it must be between 1 and {}", Self::MAX));
            }
        }
        Ok(())
    }
}

/// The smallest UNet that works: Hugging Face's diffusion course, unit 1, "Diffusion from scratch", class `BasicUNet`.
///
/// Three 5x5 convolutions down (1-32, 32-64, 64-64), three up (64-64, 64-32, 32-1), SiLU after every one, the last
/// included; 2x2 max pooling after the first two, nearest upsampling before the last two, the skip connection added.
/// 309,057 parameters with one channel. It is not conditioned on the timestep.
#[derive(Debug, Clone)]
pub struct BasicUNet {
    config: BasicUNetConfig,
    down_layer1: Conv2d,
    down_layer2: Conv2d,
    down_layer3: Conv2d,
    up_layer1: Conv2d,
    up_layer2: Conv2d,
    up_layer3: Conv2d,
}

impl BasicUNet {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "BasicUNet";

    /// Builds the network from a store of weights, which are asked for in torch's constructor order.
    ///
    /// # Errors
    /// When the configuration is out of range or a tensor is missing.
    pub fn new(config: &BasicUNetConfig, vb: VarBuilder) -> Result<Self> {
        config.check_ranges()?;
        Ok(Self {
            down_layer1: Conv2d::new([config.in_channels, 32], 5, 2, vb.pp("down_layer1"))?,
            down_layer2: Conv2d::new([32, 64], 5, 2, vb.pp("down_layer2"))?,
            down_layer3: Conv2d::new([64, 64], 5, 2, vb.pp("down_layer3"))?,
            up_layer1: Conv2d::new([64, 64], 5, 2, vb.pp("up_layer1"))?,
            up_layer2: Conv2d::new([64, 32], 5, 2, vb.pp("up_layer2"))?,
            up_layer3: Conv2d::new([32, config.out_channels], 5, 2, vb.pp("up_layer3"))?,
            config: config.clone(),
        })
    }
}

impl Model for BasicUNet {
    fn config(&self) -> &dyn ModelConfig {
        &self.config
    }

    /// `x` is `[b, in_channels, h, w]` with h and w multiples of 4; `timestep` and `labels` are not used.
    fn forward(&self, x: &Tensor, _timestep: &Tensor, _labels: Option<&Tensor>) -> Result<Tensor> {
        let (_, channels, height, width) = x.dims4()?;
        if channels != self.config.in_channels || !height.is_multiple_of(4) || !width.is_multiple_of(4) {
            let (shape, own) = (x.dims(), self.config.in_channels);
            let reason =
                format!("the input has shape {shape:?}, expected [b, {own}, h, w] with h and w multiples of 4");
            return Err(Error::Input { model: Self::CLASS_NAME, reason });
        }
        Ok(kakusan_ops::network([x], |[x]| {
            let skip1 = self.down_layer1.forward_silu(&x)?; // [b, 32, h, w]
            let h = skip1.max_pool2d()?; // [b, 32, h/2, w/2]
            let skip2 = self.down_layer2.forward_silu(&h)?; // [b, 64, h/2, w/2]
            let h = skip2.max_pool2d()?; // [b, 64, h/4, w/4]
            let h = self.down_layer3.forward_silu(&h)?; // [b, 64, h/4, w/4]

            let h = self.up_layer1.forward_silu(&h)?; // [b, 64, h/4, w/4]
            let h = h.upsample_add(&skip2)?; // [b, 64, h/2, w/2]
            let h = self.up_layer2.forward_silu(&h)?; // [b, 32, h/2, w/2]
            let h = h.upsample_add(&skip1)?; // [b, 32, h, w]
            self.up_layer3.forward_silu(&h) // [b, out_channels, h, w]
        })?)
    }
}

impl ModelConfig for BasicUNetConfig {
    fn class_name(&self) -> &str {
        BasicUNet::CLASS_NAME
    }

    fn to_map(&self) -> Map<String, Value> {
        fields(self)
    }

    fn default_map(&self) -> Map<String, Value> {
        fields(&Self::default())
    }

    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Model>> {
        Ok(Box::new(BasicUNet::new(self, vb)?))
    }

    fn sample_shape(&self) -> Result<[usize; 3]> {
        Ok([self.in_channels, self.sample_size, self.sample_size])
    }

    /// The least value of SiLU, with which the network ends.
    fn lowest_output(&self) -> Option<f32> {
        Some(-0.278_465)
    }

    /// The course's notebook says `down_layers.0` for `down_layer1`.
    fn tensor_name(&self, name: &str) -> String {
        for (notebook, ours) in [("down_layers.", "down_layer"), ("up_layers.", "up_layer")] {
            if let Some((layer, rest)) = name.strip_prefix(notebook).and_then(|rest| rest.split_once('.'))
                && let Ok(layer @ 0..3) = layer.parse::<usize>()
            {
                return format!("{ours}{}.{rest}", layer + 1);
            }
        }
        name.to_owned()
    }
}
