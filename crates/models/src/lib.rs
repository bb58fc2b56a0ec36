//! The networks, their initialisation, and models in diffusers' folders (`config.json` and weights).
//!
//! [`BasicUNet`] is the tutorial's; [`UNet2DModel`] is diffusers', with every block and key that it has there;
//! [`ClassConditionedUnet`] is the diffusion course's, with the class in channels next to the image's. Each is a
//! [`Model`], and its configuration, which builds it, a [`ModelConfig`]. A [`Registry`] reads configurations from a
//! file or a table; models of your own are added there.
//!
//! A network is built from a [`VarBuilder`], in candle's idiom. [`Weights`] hands that builder out: with
//! torch's initialisation in torch's order ([`Weights::initialise`]), from a checkpoint, strictly checked
//! ([`Weights::load`]), or as a frozen view that records no gradient, for sampling ([`Weights::frozen`]).
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use kakusan_models::{BasicUNetConfig, ModelConfig, Weights};
//! use kakusan_rng::Generator;
//!
//! # fn main() -> kakusan_models::Result<()> {
//! let config = BasicUNetConfig::default();
//! let (weights, model) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
//! assert_eq!(weights.parameter_count(), 309_057);
//! let x = Tensor::zeros((2, 1, 28, 28), DType::F32, &Device::Cpu)?;
//! let timestep = Tensor::zeros(2, DType::F32, &Device::Cpu)?;
//! assert_eq!(model.forward(&x, &timestep, None)?.dims(), [2, 1, 28, 28]);
//! # Ok(())
//! # }
//! ```
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod basic_unet;
mod builder;
mod class_conditioned_unet;
mod dropout;
mod error;
mod layers;
pub mod legacy;
mod model;
mod model_config;
mod outline;
mod pretrained;
mod registry;
#[cfg(feature = "schema")]
mod schema;
mod unet_2d;
mod warning;
mod weights;

pub use basic_unet::{BasicUNet, BasicUNetConfig};
pub use builder::{Store, TensorSpec, VarBuilder, candle_builder};
pub use class_conditioned_unet::{ClassConditionedUnet, ClassConditionedUnetConfig};
pub use dropout::Dropout;
pub use error::{Error, Result};
pub use model::Model;
pub use model_config::{ModelConfig, Submodule, fields};
pub use outline::{Outline, OutlinedTensor};
pub use pretrained::{
    CONFIG_FILE, Pretrained, PretrainedConfig, from_pretrained, load_config, pretrained_config, save, save_with,
};
pub use registry::Registry;
#[cfg(feature = "schema")]
pub use schema::config_schemas;
pub use unet_2d::{
    ActFn, BlockType, ClassEmbedType, DownBlock, MidBlockType, SampleSize, SampleType, TimeEmbeddingType,
    TimeScaleShift, UNet2DConfig, UNet2DModel, UpBlock,
};
pub use warning::Warning;
pub use weights::{Adaptation, Change, Misfit, Weights};
