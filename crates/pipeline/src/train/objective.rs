//! The training objective.

use std::result::Result as Outcome;

use candle_core::Tensor;
use kakusan_rng::Generator;
use kakusan_scheduler::{Family, PredictionType, Process, Scheduler};

use super::noise_levels::training_process;
use crate::{Error, LossType, Result, TrainConfig};

/// The loss of a prediction, with the configured function and weights.
#[derive(Debug, Clone)]
pub(crate) struct Objective {
    loss: LossType,
    huber_delta: f64,
    min_snr: Option<MinSnr>,
    process: Process,
    class_name: String,
}

/// Weights by the signal-to-noise ratio, clipped at `gamma` (Hang et al. 2023).
#[derive(Debug, Clone, Copy)]
struct MinSnr {
    gamma: f64,
    prediction: PredictionType,
}

impl Objective {
    /// Fails if the scheduler does not provide what the levels or the weights need. The message begins with the key.
    pub(crate) fn new(config: &TrainConfig, scheduler: &dyn Scheduler) -> Outcome<Self, String> {
        let min_snr = match config.snr_gamma {
            Some(gamma) => Some(MinSnr { gamma, prediction: prediction_with_snr(scheduler)? }),
            None => None,
        };
        let huber_delta = config.huber_delta.unwrap_or(1.0);
        let process = training_process(config, scheduler)?;
        let class_name = scheduler.class_name().to_owned();
        Ok(Self { loss: config.loss, huber_delta, min_snr, process, class_name })
    }

    /// The process of the training: the scheduler's, with the levels that `[train]` draws.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// The mean loss over a batch or a part of one, at the images' `levels`: a scalar.
    pub(crate) fn loss(&self, prediction: &Tensor, target: &Tensor, levels: &[f32]) -> Result<Tensor> {
        match self.weights(levels)? {
            None => Ok(match self.loss {
                LossType::Mse => kakusan_ops::mse_loss(prediction, target)?,
                LossType::L1 => kakusan_ops::l1_loss(prediction, target)?,
                LossType::Huber => kakusan_ops::huber_loss(prediction, target, self.huber_delta)?,
            }),
            Some(weights) => {
                let difference = (prediction - target)?;
                let by_element = match self.loss {
                    LossType::Mse => difference.sqr()?,
                    LossType::L1 => difference.abs()?,
                    LossType::Huber => {
                        let inside = difference.clamp(-self.huber_delta, self.huber_delta)?;
                        (&inside * (&difference - (&inside * 0.5)?)?)?
                    }
                };
                let by_image = by_element.flatten_from(1)?.mean(1)?; // [b, c, h, w] -> [b]
                let weights = Tensor::from_vec(weights, levels.len(), prediction.device())?;
                Ok((by_image * weights)?.mean_all()?)
            }
        }
    }

    /// The weight of each image; `None` if all weights are 1.
    fn weights(&self, levels: &[f32]) -> Result<Option<Vec<f32>>> {
        let own = self.process.loss_weight(levels);
        let Some(min_snr) = self.min_snr else { return Ok(own) };
        let snr = self.process.snr(levels)?.ok_or_else(|| Error::Unfit(without_snr(&self.class_name)))?;
        let weights = snr.into_iter().map(|snr| min_snr.weight(snr));
        Ok(Some(match own {
            Some(own) => own.into_iter().zip(weights).map(|(own, weight)| own * weight).collect(),
            None => weights.collect(),
        }))
    }
}

impl MinSnr {
    fn weight(self, snr: f32) -> f32 {
        let gamma = self.gamma as f32;
        match self.prediction {
            // min(snr, gamma) / snr; also 1 at snr = 0
            PredictionType::Epsilon => (gamma * (1.0 / snr)).min(1.0),
            PredictionType::VPrediction => snr.min(gamma) / (snr + 1.0),
            PredictionType::Sample | PredictionType::FlowPrediction => snr.min(gamma),
        }
    }
}

/// What the model predicts, for a scheduler with signal-to-noise ratios.
fn prediction_with_snr(scheduler: &dyn Scheduler) -> Outcome<PredictionType, String> {
    let config = scheduler.config();
    let class_name = scheduler.class_name();
    let prediction: Option<PredictionType> =
        config.get("prediction_type").and_then(|name| serde_json::from_value(name.clone()).ok());
    let prediction = match prediction {
        Some(PredictionType::FlowPrediction) | None => return Err(without_snr(class_name)),
        // `epsilon` is the name of another target there
        Some(_) if matches!(scheduler.family(), Family::Edm(_)) => return Err(without_snr(class_name)),
        Some(prediction) => prediction,
    };
    let has_snr = || -> Result<bool> {
        let clean = Tensor::zeros((1, 1, 1, 1), candle_core::DType::F32, &candle_core::Device::Cpu)?;
        let process = scheduler.process();
        Ok(process.snr(&process.draw(&clean, &mut Generator::new(0))?.levels)?.is_some())
    };
    match has_snr() {
        Ok(true) => Ok(prediction),
        Ok(false) => Err(without_snr(class_name)),
        Err(e) => Err(format!("`snr_gamma`: {class_name} gives no signal-to-noise ratio: {e}")),
    }
}

fn without_snr(class_name: &str) -> String {
    format!(
        "`snr_gamma` needs a scheduler with a signal-to-noise ratio and a prediction_type of epsilon, sample or \
         v_prediction, such as DDPMScheduler; {class_name} has none: remove it, or choose another scheduler"
    )
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use kakusan_scheduler::{DDPMConfig, DDPMScheduler};

    use super::*;

    /// Losses and gradients of PyTorch, written by tests/golden/training.py.
    #[test]
    fn weighted_losses_are_torchs() {
        let text = include_str!("../../../../tests/golden/training.json");
        let golden: serde_json::Value = serde_json::from_str(text).unwrap();
        let numbers = |value: &serde_json::Value| -> Vec<f32> {
            value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
        };
        let levels = numbers(&golden["levels"]);
        let shape = (levels.len(), 2, 3, 3);
        let [prediction, target] =
            ["prediction", "target"].map(|name| Tensor::from_vec(numbers(&golden[name]), shape, &Device::Cpu).unwrap());
        let cases = golden["losses"].as_array().unwrap();
        assert_eq!(cases.len(), 12);
        for case in cases {
            let config: TrainConfig = serde_json::from_value(case["config"].clone()).unwrap();
            let prediction_type: PredictionType = serde_json::from_value(case["prediction_type"].clone()).unwrap();
            let scheduler = DDPMScheduler::new(DDPMConfig { prediction_type, ..DDPMConfig::default() }).unwrap();
            let objective = Objective::new(&config, &scheduler).unwrap();
            let input = candle_core::Var::from_tensor(&prediction).unwrap();
            let loss = objective.loss(&input, &target, &levels).unwrap();
            let (ours, theirs) = (loss.to_scalar::<f32>().unwrap(), case["loss"].as_f64().unwrap() as f32);
            assert!((ours - theirs).abs() <= 1e-6 * theirs.abs(), "{case}: {ours}");
            let gradients = loss.backward().unwrap();
            let ours = gradients.get(&input).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let theirs = numbers(&case["gradient"]);
            let most = theirs.iter().fold(0f32, |most, x| most.max(x.abs()));
            assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() <= 1e-6 * most), "{case}: {ours:?}");
        }
    }

    #[test]
    fn the_weight_of_pure_noise_is_a_number() {
        for (prediction, expected) in [
            (PredictionType::Epsilon, [1.0, 5e-9]),
            (PredictionType::Sample, [0.0, 5.0]),
            (PredictionType::VPrediction, [0.0, 5e-9]),
        ] {
            let weights = [0.0, 1e9].map(|snr| MinSnr { gamma: 5.0, prediction }.weight(snr));
            assert_eq!(weights, expected);
        }
    }
}
