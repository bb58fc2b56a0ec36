//! The optimisers that a configuration can name.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use kakusan_models::Weights;
use kakusan_ops::{Adam, AdamConfig, AdamState, Sgd, SgdConfig};

use crate::{Error, OptimizerName, Result, TrainConfig};

/// An optimiser of a model's weights.
#[derive(Debug)]
pub(crate) enum Optimizer {
    /// Adam, with or without weight decay.
    Adam(Adam),
    Sgd(Sgd),
}

/// PyTorch's names of an optimiser's state for each parameter.
const EXP_AVG: &str = "exp_avg";
const EXP_AVG_SQ: &str = "exp_avg_sq";
const MOMENTUM: &str = "momentum_buffer";

impl Optimizer {
    pub(crate) fn new(config: &TrainConfig, params: Vec<Var>) -> Result<Self> {
        let lr = config.learning_rate;
        Ok(match config.optimizer {
            OptimizerName::Adam | OptimizerName::AdamW => {
                let defaults = AdamConfig::default();
                let [beta1, beta2] = config.betas.unwrap_or(defaults.betas.into());
                let decay = if config.optimizer == OptimizerName::AdamW { 0.01 } else { 0.0 };
                Self::Adam(Adam::new(
                    params,
                    AdamConfig {
                        lr,
                        betas: (beta1, beta2),
                        eps: config.eps.unwrap_or(defaults.eps),
                        weight_decay: config.weight_decay.unwrap_or(decay),
                    },
                )?)
            }
            OptimizerName::Sgd => {
                let (momentum, decay) = (config.momentum.unwrap_or(0.0), config.weight_decay.unwrap_or(0.0));
                Self::Sgd(Sgd::new(params, SgdConfig { lr, momentum, weight_decay: decay })?)
            }
        })
    }

    /// One step with the learning rate `lr`. The gradients are multiplied by `scale`.
    pub(crate) fn step(&mut self, grads: &GradStore, lr: f64, scale: f64) -> Result<()> {
        match self {
            Self::Adam(adam) => {
                adam.set_lr(lr)?;
                adam.step_scaled(grads, scale)?;
            }
            Self::Sgd(sgd) => {
                sgd.set_lr(lr)?;
                sgd.step_scaled(grads, scale)?;
            }
        }
        Ok(())
    }

    /// The state for a checkpoint. A tensor's name is PyTorch's name of the state and the name of the weight. `weights`
    /// must be those whose trained tensors [`new`](Self::new) received.
    pub(crate) fn state(&self, weights: &Weights) -> Result<HashMap<String, Tensor>> {
        let names = weights.trained().map(|(name, _)| name);
        let mut state = HashMap::new();
        match self {
            Self::Adam(adam) => {
                for (name, (first, second)) in names.zip(adam.state()?.moments) {
                    state.insert(format!("{EXP_AVG}.{name}"), first);
                    state.insert(format!("{EXP_AVG_SQ}.{name}"), second);
                }
            }
            Self::Sgd(sgd) => {
                state.extend(names.zip(sgd.state()?).map(|(name, buffer)| (format!("{MOMENTUM}.{name}"), buffer)));
            }
        }
        Ok(state)
    }

    /// Continues after `steps` steps with a state of [`state`](Self::state). The error names a missing or an unexpected
    /// tensor.
    pub(crate) fn load_state(
        &mut self,
        weights: &Weights,
        steps: usize,
        mut state: HashMap<String, Tensor>,
    ) -> std::result::Result<(), String> {
        let unfit = |e: candle_core::Error| Error::from(e).to_string(); // without backtrace
        let mut missing = None;
        let mut take = |key: &str, name: &str| {
            let key = format!("{key}.{name}");
            let found = state.remove(&key);
            missing = missing.take().or(found.is_none().then_some(key));
            found
        };
        let names = weights.trained().map(|(name, _)| name);
        match self {
            Self::Adam(adam) => {
                let moments = names.filter_map(|name| Some((take(EXP_AVG, name)?, take(EXP_AVG_SQ, name)?))).collect();
                if missing.is_none() {
                    adam.load_state(&AdamState { steps: steps as u64, moments }).map_err(unfit)?;
                }
            }
            Self::Sgd(sgd) => {
                let buffers: Vec<Tensor> = match sgd.state().map_err(unfit)?.len() {
                    0 => vec![],
                    _ => names.filter_map(|name| take(MOMENTUM, name)).collect(),
                };
                if missing.is_none() {
                    sgd.load_state(&buffers).map_err(unfit)?;
                }
            }
        }
        match (missing, state.keys().next()) {
            (Some(key), _) => Err(format!("the optimiser's {key} is missing")),
            (None, Some(key)) => Err(format!("it is from another optimiser: this one has no {key}")),
            (None, None) => Ok(()),
        }
    }
}
