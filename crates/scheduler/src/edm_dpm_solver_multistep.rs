use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{DPMMultistep, History, MOST_STEPS, Point, check_count, check_descending, check_order};
use crate::tensors::{check_same, mix, scale};
use crate::{
    DPMAlgorithmType, DPMSolverType, EDMConfig, Error, FinalSigmasType, Process, Result, Run, RunOptions, Schedule,
    Scheduler, StepOutput, Steps, Supports, ThresholdConfig,
};

/// DPM-Solver++ with earlier outputs (Lu et al. 2022, "DPM-Solver++", algorithm 2) for models with EDM's
/// preconditioning (Karras et al. 2022): diffusers' `EDMDPMSolverMultistepScheduler`.
///
/// Noise levels may be asked for by hand, which diffusers does not offer.
///
/// ```
/// use kakusan_scheduler::{EDMDPMSolverMultistepScheduler, Scheduler};
///
/// let run = EDMDPMSolverMultistepScheduler::default().run(10)?;
/// assert_eq!(run.sigmas().map(|sigmas| sigmas[0].round()), Some(80.0));
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct EDMDPMSolverMultistepScheduler {
    config: EDMDPMSolverMultistepConfig,
}

/// The configuration of [`EDMDPMSolverMultistepScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EDMDPMSolverMultistepConfig {
    /// The noise levels and the preconditioning.
    #[serde(flatten)]
    pub edm: EDMConfig,
    /// How many outputs a step looks at, 1 to 3; 2 at most for `sde-dpmsolver++`.
    pub solver_order: usize,
    /// Thresholding of predicted images.
    #[serde(flatten)]
    pub threshold: ThresholdConfig,
    /// The equation that is integrated: `dpmsolver++` or `sde-dpmsolver++`.
    pub algorithm_type: DPMAlgorithmType,
    /// How steps of the second order weigh the derivative.
    pub solver_type: DPMSolverType,
    /// Whether the last steps of runs of less than 15 are of lower orders.
    pub lower_order_final: bool,
    /// Whether the last step is of the first order, however many there are.
    pub euler_at_final: bool,
    /// The noise level that the last step leads to; `sigma_min` is that at which it begins.
    pub final_sigmas_type: FinalSigmasType,
}

impl Default for EDMDPMSolverMultistepConfig {
    /// diffusers': EDM's levels down to no noise, `dpmsolver++` of the second order, midpoint.
    fn default() -> Self {
        Self {
            edm: EDMConfig::default(),
            solver_order: 2,
            threshold: ThresholdConfig::default(),
            algorithm_type: DPMAlgorithmType::default(),
            solver_type: DPMSolverType::default(),
            lower_order_final: true,
            euler_at_final: false,
            final_sigmas_type: FinalSigmasType::Zero,
        }
    }
}

impl EDMDPMSolverMultistepScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "EDMDPMSolverMultistepScheduler";

    /// Takes the configuration.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: EDMDPMSolverMultistepConfig) -> Result<Self> {
        config.edm.check(Self::CLASS_NAME)?;
        config.threshold.check(Self::CLASS_NAME)?;
        check_order(Self::CLASS_NAME, "solver_order", config.solver_order, 3)?;
        let reason = match config.algorithm_type {
            DPMAlgorithmType::DPMSolver | DPMAlgorithmType::SdeDPMSolver => {
                "its model predicts images, so its algorithm_type is dpmsolver++ or sde-dpmsolver++"
            }
            DPMAlgorithmType::SdeDPMSolverPlusPlus if config.solver_order == 3 => {
                "algorithm_type sde-dpmsolver++ has no solver_order 3 here; take 2, or dpmsolver++"
            }
            _ => return Ok(Self { config }),
        };
        Err(Error::Config { class_name: Self::CLASS_NAME.into(), reason: reason.into() })
    }

    /// The noise levels between which the steps lead.
    fn sigmas(&self, options: &RunOptions) -> Result<Vec<f32>> {
        if let Schedule::Sigmas(sigmas) = &options.schedule {
            check_descending(Self::CLASS_NAME, sigmas)?;
            return Ok(sigmas.iter().map(|&sigma| sigma as f32).collect());
        }
        let n = check_count(Self::CLASS_NAME, options.num_steps())?;
        let mut sigmas: Vec<f32> = self.config.edm.sigmas(n).into_iter().map(|sigma| sigma as f32).collect();
        sigmas.push(match self.config.final_sigmas_type {
            FinalSigmasType::Zero => 0.0,
            FinalSigmasType::SigmaMin => self.config.edm.sigma_min as f32,
        });
        Ok(sigmas)
    }
}

impl Scheduler for EDMDPMSolverMultistepScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "DPM-Solver++ for models with EDM's preconditioning (Lu et al. 2022, Karras et al. 2022)"
    }

    fn process(&self) -> Process {
        self.config.edm.process()
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=MOST_STEPS
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[Supports::Sigmas])?;
        let config = &self.config;
        let sigmas = self.sigmas(options)?;
        let levels = sigmas[..sigmas.len() - 1].iter().map(|&sigma| config.edm.c_noise(sigma)).collect();
        let steps = Steps::new(Self::CLASS_NAME, levels, options.start)?;
        let solver = DPMMultistep {
            algorithm_type: config.algorithm_type,
            solver_type: config.solver_type,
            solver_order: config.solver_order,
            lower_order_final: config.lower_order_final,
            euler_at_final: config.euler_at_final,
            history: History::new(config.solver_order),
        };
        let (edm, threshold) = (config.edm.clone(), config.threshold);
        Ok(Box::new(EDMDPMSolverMultistepRun { edm, threshold, steps, sigmas, solver }))
    }
}

/// A sampling by [`EDMDPMSolverMultistepScheduler`].
#[derive(Debug)]
struct EDMDPMSolverMultistepRun {
    edm: EDMConfig,
    threshold: ThresholdConfig,
    steps: Steps,
    sigmas: Vec<f32>,
    solver: DPMMultistep,
}

impl Run for EDMDPMSolverMultistepRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn sigmas(&self) -> Option<&[f32]> {
        Some(&self.sigmas)
    }

    fn init_noise_sigma(&self) -> f32 {
        (self.edm.sigma_max * self.edm.sigma_max + 1.0).sqrt() as f32
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Ok((1.0, self.sigmas[self.steps.index()?]))
    }

    fn scale_model_input(&self, sample: &Tensor) -> Result<Tensor> {
        scale(sample, self.edm.c_in(self.sigmas[self.steps.index()?]))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput> {
        check_same("the model's output", model_output, sample)?;
        let i = self.steps.index()?;
        let (c_skip, c_out) = self.edm.c_skip_out(self.sigmas[i]);
        let x0 = mix(c_skip, sample, c_out, model_output)?;
        let x0 = if self.threshold.thresholding { self.threshold.threshold(&x0)? } else { x0 };
        // the sample itself is not scaled, so that all of the image is in it
        let between = [self.sigmas[i], self.sigmas[i + 1]].map(|sigma| Point { alpha: 1.0, sigma: sigma.into() });
        let of = [i, self.steps.timesteps().len()];
        let prev_sample = self.solver.step(of, between, x0.clone(), sample, rng)?;
        self.steps.advance();
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
