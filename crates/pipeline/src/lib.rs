//! Train diffusion models and sample from them: configurations, the training loop, run folders and checkpoints,
//! [`DDPMPipeline`] in diffusers' layout, the tutorial's pictures and the report.
//!
//! [`Training`] is the whole of `kakusan train`; [`Trainer`] is its loop alone, for those who bring their own images or
//! [`Scheduler`](kakusan_scheduler::Scheduler).
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod checkpoint;
mod checkpointed;
mod checksums;
mod class;
mod compare;
mod config;
mod convert;
mod ddpm;
mod device;
mod error;
mod files;
mod layout;
mod levels;
mod lr_schedule;
mod objective;
mod optimizer;
pub mod pictures;
mod previews;
mod registry;
mod report;
mod resume;
mod run_folder;
mod sampling;
mod shell;
mod story;
mod tensorboard;
mod train;
mod train_config;
mod trainer;
mod warning;

pub use checkpointed::Checkpointed;
pub use class::PipelineClass;
pub use compare::compare;
pub use config::{ConfigError, ConfigWarning, RunConfig, SampleConfig};
pub use convert::convert;
pub use ddpm::DDPMPipeline;
pub use device::{DeviceChoice, DeviceFallback, Opened};
pub use error::{Error, Result};
pub use files::{check_writable, write_whole};
pub use registry::Registry;
pub use report::thousands;
pub use run_folder::Record;
pub use sampling::{SampleOptions, SampleStep};
pub use shell::{quote, quote_path};
pub use train::{EpochSummary, Event, Existing, Outcome, Training, run_config};
pub use train_config::{LossType, LrScheduler, OptimizerName, TrainConfig};
pub use trainer::{Step, Trainer};
pub use warning::Warning;
