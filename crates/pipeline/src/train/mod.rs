//! Training: the configuration, the loop, and the run folder with its checkpoints.

mod averages;
mod checkpoint;
mod checkpointed;
mod checksums;
mod config;
mod document;
mod freeze;
mod lr_schedule;
mod noise_levels;
mod objective;
mod observer;
mod optimizer;
mod origin;
mod ranks;
mod resume;
mod run_files;
mod run_folder;
#[cfg(feature = "schema")]
mod schema;
mod train_config;
mod trainer;
mod training;

pub use averages::Averaged;
pub use checkpointed::Checkpointed;
pub use config::{ConfigError, ConfigWarning, RunConfig, SampleConfig};
pub use observer::{EpochSummary, Event, RunView};
pub use origin::Origin;
pub use ranks::{AllReduceMethod, RankTime, RankTimes, leader_first};
pub use run_folder::{Record, read_metrics};
#[cfg(feature = "schema")]
pub use schema::config_schema;
pub use train_config::{LossType, LrScheduler, OptimizerName, TrainConfig, WeightingScheme};
pub use trainer::{Step, Trainer, Validated};
pub(crate) use training::labels;
pub use training::{Existing, Outcome, Training, recorded_config, run_config, run_source};
