//! When and how much noise: the [`Scheduler`] trait and the schedulers that implement it.
//!
//! A scheduler serves both sides of diffusion. In **training** it draws noise and levels for a batch, corrupts the
//! clean images and names the target the model has to predict. In **sampling** it hands out a [`Run`] that leads from
//! pure noise to images, one model call a step. It knows no model, no file and no device: tensors stay on the device
//! they came from, and all randomness comes from the [`Generator`](kakusan_rng::Generator) that the caller passes in.
//!
//! Configuration and run state are apart: a `Scheduler` is immutable and serialises to diffusers'
//! `scheduler_config.json`; the history of one sampling lives in its `Run`.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use kakusan_rng::Generator;
//! use kakusan_scheduler::{LinearMixScheduler, Scheduler};
//!
//! # fn main() -> kakusan_scheduler::Result<()> {
//! let scheduler = LinearMixScheduler::default();
//! let mut rng = Generator::new(0);
//! let mut run = scheduler.run(5)?;
//! let mut x = run.initial_noise(&[1, 1, 28, 28], &Device::Cpu, &mut rng)?;
//! while let Some(_timestep) = run.timestep() {
//!     let prediction = x.zeros_like()?; // a model's forward(x, timestep) stands here
//!     x = run.step(&prediction, &x, &mut rng)?.prev_sample;
//! }
//! assert_eq!(x.flatten_all()?.to_vec1::<f32>()?, vec![0.0; 784]);
//! # Ok(())
//! # }
//! ```
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod config;
pub mod conformance;
mod consistency_models;
mod ddim;
mod ddim_inverse;
mod ddpm;
mod deis_multistep;
mod density;
mod dpm_solver_multistep;
mod dpm_solver_multistep_inverse;
mod dpm_solver_sde;
mod dpm_solver_singlestep;
mod edm_dpm_solver_multistep;
mod edm_euler;
mod error;
mod euler_ancestral_discrete;
mod euler_discrete;
mod family;
mod fitted;
mod flow_match_euler_discrete;
mod flow_match_heun_discrete;
mod heun_discrete;
mod ipndm;
mod karras_ve;
mod kdpm2;
mod lcm;
mod linear_mix;
mod lms_discrete;
mod options;
mod pndm;
mod prelude;
mod process;
mod registry;
mod repaint;
mod run;
mod sa_solver;
mod schedule;
mod scheduler;
#[cfg(feature = "schema")]
mod schema;
mod sde_ve;
mod sde_vp;
mod tcd;
mod tensors;
mod unclip;
mod unipc_multistep;

pub use consistency_models::{CMStochasticIterativeConfig, CMStochasticIterativeScheduler};
pub use ddim::{DDIMConfig, DDIMScheduler};
pub use ddim_inverse::{DDIMInverseConfig, DDIMInverseScheduler};
pub use ddpm::{DDPMConfig, DDPMScheduler, VarianceType};
pub use deis_multistep::{DEISMultistepConfig, DEISMultistepScheduler};
pub use density::Density;
pub use dpm_solver_multistep::{DPMSolverMultistepConfig, DPMSolverMultistepScheduler};
pub use dpm_solver_multistep_inverse::{DPMSolverMultistepInverseConfig, DPMSolverMultistepInverseScheduler};
pub use dpm_solver_sde::{DPMSolverSDEConfig, DPMSolverSDEScheduler};
pub use dpm_solver_singlestep::{DPMSolverSinglestepConfig, DPMSolverSinglestepScheduler};
pub use edm_dpm_solver_multistep::{EDMDPMSolverMultistepConfig, EDMDPMSolverMultistepScheduler};
pub use edm_euler::{EDMEulerConfig, EDMEulerScheduler};
pub use error::{Error, Result};
pub use euler_ancestral_discrete::{EulerAncestralDiscreteConfig, EulerAncestralDiscreteScheduler};
pub use euler_discrete::{EulerDiscreteConfig, EulerDiscreteScheduler, InterpolationType, TimestepType};
pub use family::Family;
pub use fitted::FittedSteps;
pub use flow_match_euler_discrete::{FlowMatchEulerDiscreteConfig, FlowMatchEulerDiscreteScheduler};
pub use flow_match_heun_discrete::{FlowMatchHeunDiscreteConfig, FlowMatchHeunDiscreteScheduler};
pub use heun_discrete::{HeunDiscreteConfig, HeunDiscreteScheduler};
pub use ipndm::{IPNDMConfig, IPNDMScheduler};
pub use karras_ve::{KarrasVeConfig, KarrasVeScheduler};
pub use kdpm2::{
    KDPM2AncestralDiscreteConfig, KDPM2AncestralDiscreteScheduler, KDPM2Config, KDPM2DiscreteConfig,
    KDPM2DiscreteScheduler,
};
pub use lcm::{LCMConfig, LCMScheduler};
pub use linear_mix::{LinearMixConfig, LinearMixScheduler};
pub use lms_discrete::{LMSDiscreteConfig, LMSDiscreteScheduler};
pub use options::{Churn, RunOptions, Schedule, Supports};
pub use pndm::{PNDMConfig, PNDMScheduler};
pub use process::{Draw, Levels, PixelRange, Process};
pub use registry::{Constructor, Registry, saved_config, set_config, to_json};
pub use repaint::{RePaintConfig, RePaintOptions, RePaintScheduler};
pub use run::{Run, StepOutput, Steps};
pub use sa_solver::{SASolverConfig, SASolverScheduler};
pub use schedule::{
    BetaConfig, BetaSchedule, ClipConfig, DEISAlgorithmType, DEISSolverType, DPMAlgorithmType, DPMSolverConfig,
    DPMSolverType, DistilledConfig, DynamicShiftConfig, EDMConfig, FinalSigmasType, FlowConfig, KDiffusionConfig,
    LearnedVarianceType, PredictionType, SAAlgorithmType, SATau, SigmaConfig, SigmaSchedule, SolverConfig,
    SpacingConfig, ThresholdConfig, TimeShiftType, TimestepSpacing, UniPCSolverType,
};
pub use scheduler::{Method, Sampler, Scheduler};
#[cfg(feature = "schema")]
pub use schema::config_schemas;
pub use sde_ve::{ScoreSdeVeConfig, ScoreSdeVeScheduler};
pub use sde_vp::{ScoreSdeVpConfig, ScoreSdeVpScheduler};
pub use tcd::{TCDConfig, TCDScheduler};
pub use unclip::{UnCLIPConfig, UnCLIPScheduler};
pub use unipc_multistep::{UniPCMultistepConfig, UniPCMultistepScheduler};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
