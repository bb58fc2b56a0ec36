use std::sync::Arc;

use candle_core::Tensor;
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

use crate::layers::embedding;
use crate::registry::parse;
use crate::unet_2d::look_up;
use crate::{Dropout, Error, Model, ModelConfig, Result, UNet2DConfig, UNet2DModel, VarBuilder, fields, legacy};

/// The configuration of [`ClassConditionedUnet`]: two keys more than `UNet2DModel` has.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassConditionedUnetConfig {
    /// How many classes there are.
    pub num_classes: usize,
    /// The size of a class's embedding: each of its numbers becomes a channel next to the image's.
    pub class_emb_size: usize,
    /// The network; its `in_channels` are those of the images.
    pub unet: UNet2DConfig,
}

impl Default for ClassConditionedUnetConfig {
    /// The course's ten classes with embeddings of size 4, and `UNet2DModel`'s defaults.
    fn default() -> Self {
        Self { num_classes: 10, class_emb_size: 4, unet: UNet2DConfig::default() }
    }
}

impl ClassConditionedUnetConfig {
    /// Larger than any sensible value, and small enough that no product overflows.
    const MAX: usize = 1 << 16;
    const OWN: [&'static str; 2] = ["num_classes", "class_emb_size"];

    /// Refuses values that are out of their ranges, naming the key.
    fn check(&self) -> Result<()> {
        for (key, count) in Self::OWN.into_iter().zip([self.num_classes, self.class_emb_size]) {
            if !(1..=Self::MAX).contains(&count) {
                return Err(refused(format!("{key} is {count}; it must be between 1 and {}", Self::MAX)));
            }
        }
        if self.unet.class_embed_type.is_some() || self.unet.num_class_embeds.is_some() {
            let reason = "num_class_embeds and class_embed_type are keys of UNet2DModel; remove them and set \
                          num_classes";
            return Err(refused(reason.into()));
        }
        Ok(())
    }

    /// The network's own configuration, that takes the planes as channels.
    fn inner(&self) -> UNet2DConfig {
        let in_channels = self.unet.in_channels.saturating_add(self.class_emb_size);
        UNet2DConfig { in_channels, ..self.unet.clone() }
    }
}

/// Two keys, and all the others are the network's. (serde's `flatten` would lose the place of an error.)
impl<'de> Deserialize<'de> for ClassConditionedUnetConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let (mut fields, default) = (Map::<String, Value>::deserialize(deserializer)?, Self::default());
        let mut own = |key: &str, default: usize| match fields.remove(key) {
            None => Ok(default),
            Some(value) => serde_json::from_value(value).map_err(|e| de::Error::custom(format!("{key}: {e}"))),
        };
        Ok(Self {
            num_classes: own("num_classes", default.num_classes)?,
            class_emb_size: own("class_emb_size", default.class_emb_size)?,
            unet: parse(fields).map_err(de::Error::custom)?,
        })
    }
}

impl ModelConfig for ClassConditionedUnetConfig {
    fn class_name(&self) -> &str {
        ClassConditionedUnet::CLASS_NAME
    }

    fn to_map(&self) -> Map<String, Value> {
        let own = Self::OWN.into_iter().zip([self.num_classes, self.class_emb_size]);
        let own = own.map(|(key, count)| (key.to_owned(), count.into()));
        own.chain(fields(&self.unet)).collect()
    }

    fn default_map(&self) -> Map<String, Value> {
        let mut map = Self::default().to_map();
        map.extend(UNet2DConfig::default().default_map());
        map
    }

    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Model>> {
        Ok(Box::new(ClassConditionedUnet::new(self, vb)?))
    }

    fn sample_shape(&self) -> Result<[usize; 3]> {
        self.unet.sample_shape_of(self.class_name())
    }

    fn num_classes(&self) -> Option<usize> {
        Some(self.num_classes)
    }

    fn class_table(&self) -> Option<&str> {
        Some("class_emb.weight")
    }

    fn check_timesteps(&self, timesteps: &[f32]) -> Result<()> {
        self.unet.check_timesteps(timesteps)
    }

    fn with_augment_dim(&self, augment_dim: usize) -> Option<Arc<dyn ModelConfig>> {
        let unet = UNet2DConfig { augment_dim, ..self.unet.clone() };
        Some(Arc::new(Self { unet, ..self.clone() }))
    }

    fn supports_gradient_checkpointing(&self) -> bool {
        true
    }

    /// Attention had other names before diffusers 0.13.
    fn tensor_name(&self, name: &str) -> String {
        legacy::attention_name(name)
    }
}

/// A [`UNet2DModel`] whose input has the class as channels next to the image's: Hugging Face's diffusion course, unit
/// 2, "Making a Class-Conditioned Diffusion Model", class `ClassConditionedUnet`.
///
/// A table has a few numbers for each class; each becomes a channel, the same at every pixel, and the network takes
/// those and the image's together. diffusers has no such model: Python opens its weights by the course's class, whose
/// names of tensors (`class_emb.weight`, `model.…`) and initialisation these are.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use kakusan_models::{ClassConditionedUnetConfig, DownBlock, ModelConfig, UNet2DConfig, UpBlock, Weights};
/// use kakusan_rng::Generator;
///
/// # fn main() -> kakusan_models::Result<()> {
/// let unet = UNet2DConfig {
///     in_channels: 1,
///     out_channels: 1,
///     down_block_types: [DownBlock::DownBlock2D, DownBlock::AttnDownBlock2D].map(Into::into).to_vec(),
///     up_block_types: [UpBlock::AttnUpBlock2D, UpBlock::UpBlock2D].map(Into::into).to_vec(),
///     block_out_channels: vec![32, 64],
///     ..UNet2DConfig::default()
/// };
/// let config = ClassConditionedUnetConfig { unet, ..ClassConditionedUnetConfig::default() };
/// let (_, model) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
/// let x = Tensor::zeros((2, 1, 8, 8), DType::F32, &Device::Cpu)?;
/// let (timestep, labels) = (Tensor::new(&[10f32, 999.0], &Device::Cpu)?, Tensor::new(&[3u32, 7], &Device::Cpu)?);
/// assert_eq!(model.forward(&x, &timestep, Some(&labels))?.dims(), [2, 1, 8, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ClassConditionedUnet {
    config: ClassConditionedUnetConfig,
    class_emb: Tensor, // [num_classes, class_emb_size]
    model: UNet2DModel,
}

impl ClassConditionedUnet {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "ClassConditionedUnet";

    /// Builds the network from a store of weights, which are asked for in torch's constructor order.
    ///
    /// # Errors
    /// When a value of the configuration is out of its range or does not fit the others, and when a tensor is missing.
    pub fn new(config: &ClassConditionedUnetConfig, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        Ok(Self {
            class_emb: embedding(config.num_classes, config.class_emb_size, vb.pp("class_emb"))?,
            model: UNet2DModel::new(&config.inner(), vb.pp("model"))?,
            config: config.clone(),
        })
    }

    /// The image's channels and the planes of its class: `[b, c, h, w] -> [b, c + class_emb_size, h, w]`.
    fn with_planes(&self, x: &Tensor, labels: Option<&Tensor>) -> Result<Tensor> {
        let unfit = |reason: String| Error::Input { model: Self::CLASS_NAME, reason };
        let &[batch, channels, h, w] = x.dims() else {
            return Err(unfit(format!("the input has shape {:?}, expected [b, c, h, w]", x.dims())));
        };
        if channels != self.config.unet.in_channels {
            let expected = self.config.unet.in_channels;
            return Err(unfit(format!("the images have {channels} channels, expected {expected}")));
        }
        let Some(labels) = labels else {
            return Err(unfit("it is conditioned on classes, but got no labels; pass one for each image".into()));
        };
        if labels.dims() != [batch] {
            return Err(unfit(format!("the labels have shape {:?}, expected [{batch}]", labels.dims())));
        }
        let numbers = look_up(&self.class_emb, labels, "label").map_err(|e| match e {
            Error::Input { reason, .. } => unfit(reason), // of this model, not of the one within
            other => other,
        })?;
        let size = self.config.class_emb_size;
        let planes = numbers.to_dtype(x.dtype())?.reshape((batch, size, 1, 1))?.broadcast_as((batch, size, h, w))?;
        Ok(Tensor::cat(&[x, &planes], 1)?)
    }
}

impl Model for ClassConditionedUnet {
    fn config(&self) -> &dyn ModelConfig {
        &self.config
    }

    /// As [`UNet2DModel`]'s; `labels` are classes `[b]`.
    fn forward(&self, x: &Tensor, timestep: &Tensor, labels: Option<&Tensor>) -> Result<Tensor> {
        self.model.forward(&self.with_planes(x, labels)?, timestep, None)
    }

    fn forward_train(
        &self,
        x: &Tensor,
        timestep: &Tensor,
        labels: Option<&Tensor>,
        augmentation: Option<&Tensor>,
        dropout: Dropout,
    ) -> Result<Tensor> {
        self.model.forward_train(&self.with_planes(x, labels)?, timestep, None, augmentation, dropout)
    }

    fn enable_gradient_checkpointing(&mut self) -> Result<()> {
        self.model.enable_gradient_checkpointing()
    }
}

fn refused(reason: String) -> Error {
    Error::Config { origin: ClassConditionedUnet::CLASS_NAME.into(), reason }
}
