use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::{config_map, read_config, set_values, to_map};
use crate::schedule::{Alphas, jumps};
use crate::tensors::{check_same, mix, noise_like};
use crate::{
    BetaConfig, BetaSchedule, Error, PredictionType, Process, Result, Run, RunOptions, Scheduler, StepOutput, Steps,
};

/// Inpainting with a model trained for images alone (Lugmayr et al. 2022, algorithm 1): diffusers' `RePaintScheduler`.
///
/// Each step takes what is known from the image and the rest from the model; now and then some steps are undone with new
/// noise and done again, so that the two come to fit. A run needs the image and a mask: [`repaint_run`](Self::repaint_run).
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use kakusan_rng::Generator;
/// use kakusan_scheduler::{RePaintOptions, RePaintScheduler, Run};
///
/// # fn main() -> kakusan_scheduler::Result<()> {
/// let image = Tensor::full(0.5f32, (1, 1, 2, 2), &Device::Cpu)?;
/// let mask = Tensor::new(&[[[[1f32, 1.0], [1.0, 0.0]]]], &Device::Cpu)?; // the last pixel is to be painted
/// let mut rng = Generator::new(0);
/// let options = RePaintOptions { num_inference_steps: 20, jump_length: 5, jump_n_sample: 2, eta: None };
/// let mut run = RePaintScheduler::default().repaint_run(&options, &image, &mask)?;
/// let mut x = run.initial_noise(image.dims(), image.device(), &mut rng)?;
/// while let Some(_timestep) = run.timestep() {
///     let epsilon = x.zeros_like()?; // a model's forward(x, timestep) stands here
///     x = run.step(&epsilon, &x, &mut rng)?.prev_sample;
/// }
/// assert_eq!(x.flatten_all()?.to_vec1::<f32>()?[..3], [0.5; 3]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RePaintScheduler {
    config: RePaintConfig,
    betas: Vec<f32>,
    alphas: Alphas,
}

/// The configuration of [`RePaintScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RePaintConfig {
    /// The variances of the forward process.
    #[serde(flatten)]
    pub beta: BetaConfig,
    /// How much of a step's noise is new, from 0, none as in DDIM, to 1 as in DDPM.
    pub eta: f64,
    /// Whether predicted images are clipped to ±1.
    pub clip_sample: bool,
}

/// How an image is inpainted: what diffusers' `RePaintPipeline` passes to `set_timesteps`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RePaintOptions {
    /// The steps from noise to image, not counting those done again.
    pub num_inference_steps: usize,
    /// j, how many steps are undone at a time.
    pub jump_length: usize,
    /// r, how often the steps between two places of undoing are done in all.
    pub jump_n_sample: usize,
    /// In place of the configuration's.
    pub eta: Option<f64>,
}

impl Default for RePaintOptions {
    /// diffusers' pipeline's: 250 steps, of which each ten are done ten times.
    fn default() -> Self {
        Self { num_inference_steps: 250, jump_length: 10, jump_n_sample: 10, eta: None }
    }
}

impl Default for RePaintConfig {
    /// diffusers': 1000 timesteps, linear betas, an η of 0, clipped.
    fn default() -> Self {
        Self { beta: BetaConfig::default(), eta: 0.0, clip_sample: true }
    }
}

impl RePaintScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "RePaintScheduler";
    /// More model calls than this are taken for a slip.
    const MAX_CALLS: usize = 10_000_000;

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: RePaintConfig) -> Result<Self> {
        use BetaSchedule::{Linear, ScaledLinear, Sigmoid, SquaredcosCapV2};
        config.beta.check(Self::CLASS_NAME, &[Linear, ScaledLinear, SquaredcosCapV2, Sigmoid])?;
        check_eta(config.eta)?;
        let scheduler = Self::build(config);
        scheduler.alphas.check(Self::CLASS_NAME)?;
        Ok(scheduler)
    }

    /// Builds it from a configuration that may be another scheduler's, such as the DDPM that a model was trained with: keys
    /// that it does not know are left out; absent ones, and those in `_use_default_values`, take their default.
    ///
    /// # Errors
    /// As [`new`](Self::new), and when a value is of the wrong type.
    pub fn from_config(config: &Map<String, Value>) -> Result<Self> {
        let known = to_map(&RePaintConfig::default());
        let given = set_values(config).into_iter().filter(|(key, _)| known.contains_key(key));
        Self::new(read_config(Self::CLASS_NAME, given.collect())?)
    }

    fn build(config: RePaintConfig) -> Self {
        Self { betas: config.beta.betas(), alphas: Alphas::new(&config.beta, false), config }
    }

    /// Begins to inpaint `original` `[b, c, h, w]` where `mask` is 0; where it is 1 the image is kept. The mask has the shape
    /// of the image, or 1 in place of any dimension. The model is called at [`Run::level`]s that go down and up; a step ends
    /// with the undoing, if any, that leads to the next of them.
    ///
    /// # Errors
    /// When the mask does not fit the image, or the steps are impossible.
    pub fn repaint_run(&self, options: &RePaintOptions, original: &Tensor, mask: &Tensor) -> Result<Box<dyn Run>> {
        let mask = mask.broadcast_as(original.dims()).map_err(|_| Error::Shape {
            what: "the mask",
            got: mask.dims().to_vec(),
            expected: original.dims().to_vec(),
        })?;
        let eta = options.eta.unwrap_or(self.config.eta);
        check_eta(eta)?;
        let calls = self.calls(options)?;
        let apart = self.alphas.len() / options.num_inference_steps;
        let timesteps = calls.iter().map(|(place, _)| (place * apart) as f32).collect();
        Ok(Box::new(RePaintRun {
            scheduler: self.clone(),
            eta: eta as f32,
            original: original.clone(),
            mask: mask.contiguous()?,
            apart,
            undone: calls.into_iter().map(|(_, undone)| undone).collect(),
            steps: Steps::new(Self::CLASS_NAME, timesteps, 0)?,
        }))
    }

    /// The places of the model calls among the steps, and how many steps are undone after each.
    fn calls(&self, options: &RePaintOptions) -> Result<Vec<(usize, usize)>> {
        let RePaintOptions { num_inference_steps: steps, jump_length, jump_n_sample, .. } = *options;
        for (option, value) in [("jump_length", jump_length), ("jump_n_sample", jump_n_sample)] {
            if value == 0 {
                return Err(Error::OptionValue { option, value: 0.0, expected: "it must be at least 1" });
            }
        }
        let t = self.alphas.len();
        let refuse = |reason: String| Err(Error::Steps { class_name: Self::CLASS_NAME.into(), steps, reason });
        match steps {
            0 => return refuse("at least one is needed".into()),
            _ if steps > t => return refuse(format!("it was trained on {t} timesteps, so it can do at most {t}")),
            _ if steps.saturating_mul(jump_n_sample) > Self::MAX_CALLS => {
                let most = Self::MAX_CALLS;
                return refuse(format!("with jump_n_sample {jump_n_sample} they are more than {most} model calls"));
            }
            _ => {}
        }
        Ok(jumps(steps, jump_length, jump_n_sample))
    }
}

fn check_eta(eta: f64) -> Result<()> {
    match (0.0..=1.0).contains(&eta) {
        true => Ok(()),
        false => Err(Error::OptionValue { option: "eta", value: eta, expected: "it must be between 0 and 1" }),
    }
}

impl Default for RePaintScheduler {
    /// That of [`RePaintConfig::default`].
    fn default() -> Self {
        Self::build(RePaintConfig::default())
    }
}

impl Scheduler for RePaintScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "inpainting with a model of whole images; needs an image and a mask (Lugmayr et al. 2022)"
    }

    fn process(&self) -> Process {
        self.alphas.preserving(PredictionType::Epsilon)
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=self.alphas.len()
    }

    /// Refuses: see [`repaint_run`](RePaintScheduler::repaint_run).
    fn run_with(&self, _: &RunOptions) -> Result<Box<dyn Run>> {
        let what =
            "sample from noise alone: it paints into an image, which RePaintScheduler::repaint_run takes with a mask";
        Err(Error::Unsupported { class_name: Self::CLASS_NAME.into(), what: what.into() })
    }
}

/// An inpainting by [`RePaintScheduler`]; it remembers the image, the mask and where it is.
#[derive(Debug)]
struct RePaintRun {
    scheduler: RePaintScheduler,
    eta: f32,
    original: Tensor,
    mask: Tensor,
    /// By how many timesteps of training the steps are apart.
    apart: usize,
    /// How many steps are undone after each model call.
    undone: Vec<usize>,
    steps: Steps,
}

impl Run for RePaintRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput> {
        check_same("the sample", sample, &self.original)?;
        check_same("the model's output", model_output, sample)?;
        let RePaintScheduler { config, betas, alphas } = &self.scheduler;
        let i = self.steps.index()?;
        let t = self.timesteps()[i] as usize;
        let (alpha_prod, alpha_prod_prev) = (alphas.at(t as i64, 1.0), alphas.at(t as i64 - self.apart as i64, 1.0));
        let beta_prod = 1.0 - alpha_prod;
        let x0 = PredictionType::Epsilon.original_sample(model_output, sample, alpha_prod.sqrt(), beta_prod.sqrt())?;
        let x0 = if config.clip_sample { x0.clamp(-1f32, 1f32)? } else { x0 };

        // the unknown part by DDIM's step (Song et al. 2021, equation 12), the known by line 5, with the same noise
        let noise = noise_like(sample, rng)?;
        let variance = (1.0 - alpha_prod_prev) / beta_prod * (1.0 - alpha_prod / alpha_prod_prev);
        let std_dev = self.eta * variance.sqrt();
        let direction = (1.0 - alpha_prod_prev - std_dev * std_dev).max(0.0).sqrt();
        let mut unknown = mix(alpha_prod_prev.sqrt(), &x0, direction, model_output)?;
        if t > 0 && self.eta > 0.0 {
            unknown = mix(1.0, &unknown, std_dev, &noise)?;
        }
        let known = mix(alpha_prod_prev.sqrt(), &self.original, (1.0 - alpha_prod_prev).sqrt(), &noise)?;
        let mut prev_sample = ((&self.mask * known)? + (self.mask.affine(-1.0, 1.0)? * unknown)?)?; // line 8

        // line 10, one timestep of training after the other
        for beta in &betas[t..t + self.undone[i] * self.apart] {
            prev_sample = mix((1.0 - beta).sqrt(), &prev_sample, beta.sqrt(), &noise_like(sample, rng)?)?;
        }
        self.steps.advance();
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
