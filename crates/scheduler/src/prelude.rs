//! What the file of a sampler begins with.

pub(crate) use std::ops::RangeInclusive;
pub(crate) use std::sync::Arc;

pub(crate) use candle_core::{Device, Tensor};
pub(crate) use kakusan_config::Real;
pub(crate) use kakusan_rng::{Generator, Noise};
pub(crate) use serde::{Deserialize, Deserializer, Serialize};
pub(crate) use serde_json::{Map, Value};

pub(crate) use crate::config::config;
pub(crate) use crate::ddpm::VarianceType;
pub(crate) use crate::error::{Error, Result, ensure};
pub(crate) use crate::family::Family;
pub(crate) use crate::options::{Churn, RunOptions, Schedule, Supports};
pub(crate) use crate::process::{Levels, PixelRange, Process};
pub(crate) use crate::registry::Registry;
pub(crate) use crate::run::{Call, Plan, Run, Sampling, StepOutput, Steps};
pub(crate) use crate::schedule::*;
pub(crate) use crate::scheduler::{Method, Sampler, Scheduler};
pub(crate) use crate::tensors::*;
