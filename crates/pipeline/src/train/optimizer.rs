//! The optimisers that a configuration can name.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use kakusan_models::Weights;
use kakusan_ops::{Adam, AdamConfig, AdamState, Muon, MuonConfig, Sgd, SgdConfig};

use crate::{Error, OptimizerName, Result, TrainConfig};

/// An optimiser of a model's weights.
#[derive(Debug)]
pub(crate) enum Optimizer {
    /// Adam, with or without weight decay.
    Adam(Adam),
    Sgd(Sgd),
    /// Muon for the hidden layers' matrices, AdamW for the rest.
    Muon(Muon, Adam),
}

/// PyTorch's names of an optimiser's state for each parameter.
const EXP_AVG: &str = "exp_avg";
const EXP_AVG_SQ: &str = "exp_avg_sq";
const MOMENTUM: &str = "momentum_buffer";

impl Optimizer {
    /// An optimiser of the trained tensors of `weights` that has taken no step.
    pub(crate) fn new(config: &TrainConfig, weights: &Weights) -> Result<Self> {
        let lr = config.learning_rate;
        let decay = match config.optimizer {
            OptimizerName::AdamW | OptimizerName::Muon => 0.01,
            OptimizerName::Adam | OptimizerName::Sgd => 0.0,
        };
        let weight_decay = config.weight_decay.unwrap_or(decay);
        let defaults = AdamConfig::default();
        let [beta1, beta2] = config.betas.unwrap_or(defaults.betas.into());
        let eps = config.eps.unwrap_or(defaults.eps);
        let adam = AdamConfig { lr, betas: (beta1, beta2), eps, weight_decay };
        Ok(match config.optimizer {
            OptimizerName::Adam | OptimizerName::AdamW => Self::Adam(Adam::new(weights.vars(), adam)?),
            OptimizerName::Sgd => {
                let momentum = config.momentum.unwrap_or(0.0);
                Self::Sgd(Sgd::new(weights.vars(), SgdConfig { lr, momentum, weight_decay })?)
            }
            OptimizerName::Muon => {
                let momentum = config.momentum.unwrap_or(MuonConfig::default().momentum);
                let (hidden, rest): (Vec<_>, Vec<_>) = weights.trained().partition(|(name, var)| is_hidden(name, var));
                let [hidden, rest] = [hidden, rest].map(|all| all.into_iter().map(|(_, var)| var.clone()).collect());
                Self::Muon(Muon::new(hidden, MuonConfig { lr, momentum, weight_decay })?, Adam::new(rest, adam)?)
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
            Self::Muon(muon, adam) => {
                muon.set_lr(lr)?;
                adam.set_lr(lr)?;
                muon.step_scaled(grads, scale)?;
                adam.step_scaled(grads, scale)?;
            }
        }
        Ok(())
    }

    /// The state for a checkpoint. A tensor's name is PyTorch's name of the state and the name of the weight. `weights`
    /// must be those whose trained tensors [`new`](Self::new) received.
    pub(crate) fn state(&self, weights: &Weights) -> Result<HashMap<String, Tensor>> {
        let mut state = HashMap::new();
        let names = self.names(weights);
        if let Self::Adam(adam) | Self::Muon(_, adam) = self {
            for (name, (first, second)) in names.moments.iter().zip(adam.state()?.moments) {
                state.insert(format!("{EXP_AVG}.{name}"), first);
                state.insert(format!("{EXP_AVG_SQ}.{name}"), second);
            }
        }
        let buffers = match self {
            Self::Adam(_) => vec![],
            Self::Sgd(sgd) => sgd.state()?,
            Self::Muon(muon, _) => muon.state()?,
        };
        state.extend(names.momenta.iter().zip(buffers).map(|(name, buffer)| (format!("{MOMENTUM}.{name}"), buffer)));
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
        let names = self.names(weights);
        let moments = names.moments.iter().filter_map(|name| Some((take(EXP_AVG, name)?, take(EXP_AVG_SQ, name)?)));
        let moments = AdamState { steps: steps as u64, moments: moments.collect() };
        let buffers: Vec<Tensor> = names.momenta.iter().filter_map(|name| take(MOMENTUM, name)).collect();
        if missing.is_none() {
            match self {
                Self::Adam(adam) => adam.load_state(&moments).map_err(unfit)?,
                Self::Sgd(sgd) => sgd.load_state(&buffers).map_err(unfit)?,
                Self::Muon(muon, adam) => {
                    adam.load_state(&moments).map_err(unfit)?;
                    muon.load_state(&buffers).map_err(unfit)?;
                }
            }
        }
        match (missing, state.keys().next()) {
            (Some(key), _) => Err(format!("the optimiser's {key} is missing")),
            (None, Some(key)) => Err(format!("it is from another optimiser: this one has no {key}")),
            (None, None) => Ok(()),
        }
    }

    /// The names of the weights of which the optimiser remembers something.
    fn names<'a>(&self, weights: &'a Weights) -> Remembered<'a> {
        let names = |chosen: &dyn Fn(&str, &Var) -> bool| {
            weights.trained().filter(|(name, var)| chosen(name, var)).map(|(name, _)| name).collect()
        };
        match self {
            Self::Adam(_) => Remembered { moments: names(&|_, _| true), momenta: vec![] },
            Self::Sgd(sgd) => Remembered { moments: vec![], momenta: names(&|_, _| sgd.has_momentum()) },
            Self::Muon(..) => {
                Remembered { moments: names(&|name, var| !is_hidden(name, var)), momenta: names(&is_hidden) }
            }
        }
    }
}

/// By what is remembered.
struct Remembered<'a> {
    /// Adam's two moments.
    moments: Vec<&'a str>,
    /// SGD's and Muon's mean gradient.
    momenta: Vec<&'a str>,
}

/// Muon moves this weight: a hidden layer's matrix or convolution. The layers that read or write pixels have few
/// channels on one side, and a column of an embedding is no direction of its matrix.
fn is_hidden(name: &str, weight: &Var) -> bool {
    weight.rank() >= 2 && weight.dims()[..2].iter().all(|&channels| channels >= 8) && !name.contains("embed")
}
