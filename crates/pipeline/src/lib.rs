//! Samples from diffusion models, and trains them.
//!
//! [`DDPMPipeline`] is a model and a scheduler in diffusers' folder layout: it loads, samples and saves.
//!
//! With the feature `train`, [`Training`] trains one from a [`RunConfig`] in a run folder, with checkpoints to resume
//! from; [`Trainer`] is only its loop. Progress, plots and reports come from an observer, which receives the training's
//! [`Event`]s. Several processes train one model as members of a `kakusan_distributed::Group`.
//!
//! Features, all off by default: `train`, `hub` (pipelines and data sets of the Hugging Face Hub), `parquet` (data sets
//! in parquet files), `cuda` and `nccl`.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod class;
mod convert;
mod ddpm;
mod described;
mod device;
mod edit;
mod error;
mod files;
mod fit;
mod guidance;
#[cfg(feature = "hub")]
mod hub;
mod labels;
mod layout;
mod publish;
mod registry;
mod sampling;
#[cfg(feature = "train")]
mod train;
mod warning;

pub use class::PipelineClass;
pub use convert::convert;
pub use ddpm::DDPMPipeline;
pub use described::Described;
pub use device::{DeviceChoice, DeviceFallback, Opened};
pub use edit::{Axis, Interpolation, Inversion, in_turns, slerp};
pub use error::{Error, Result};
pub use files::{check_writable, write_whole};
pub use fit::{Fit, FitProgress, FitStage};
pub use guidance::{
    BrightnessGuidance, ColourGuidance, Guidance, GuidanceWay, Guide, GuideKind, GuideSpec, ImageGuidance,
    MaskedGuidance, Predicted, rescale_noise_cfg,
};
pub use labels::Labels;
pub use layout::hub_name;
pub use publish::{is_superseded, pipeline_files};
pub use registry::Registry;
pub use sampling::{SampleOptions, SampleStep, SampleWarning};
#[cfg(feature = "schema")]
pub use train::config_schema;
#[cfg(feature = "train")]
pub use train::{
    AllReduceMethod, Averaged, Checkpointed, ConfigError, ConfigWarning, EpochSummary, Event, Existing, LossType,
    LrScheduler, OptimizerName, Origin, Outcome, RankTime, RankTimes, Record, RunConfig, RunView, SampleConfig, Step,
    TrainConfig, Trainer, Training, Validated, WeightingScheme, leader_first, read_metrics, recorded_config,
    run_config, run_source,
};
pub use warning::Warning;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
