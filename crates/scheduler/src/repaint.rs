use crate::prelude::*;

/// Inpainting with a model trained for images alone (Lugmayr et al. 2022, algorithm 1): diffusers' `RePaintScheduler`.
///
/// Each step takes what is known from the image and the rest from the model; now and then some steps are undone with
/// new noise and done again, so that the two come to fit. A run needs the image and a mask:
/// [`repaint_run`](Self::repaint_run).
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
pub type RePaintScheduler = Sampler<RePaintConfig>;

config! {
    /// The configuration of [`RePaintScheduler`], under diffusers' names.
    pub struct RePaintConfig {
        /// The variances of the forward process.
        #[serde(flatten)]
        pub beta: BetaConfig = BetaConfig::default(),
        /// How much of a step's noise is new, from 0, none as in DDIM, to 1 as in DDPM.
        pub eta: f64 = 0.0,
        /// Whether predicted images are clipped to ±1.
        pub clip_sample: bool = true,
    }
}

config! {
    /// How an image is inpainted: what diffusers' `RePaintPipeline` passes to `set_timesteps`.
    #[derive(Copy)]
    pub struct RePaintOptions {
        /// The steps from noise to image, not counting those done again.
        pub num_inference_steps: usize = 250,
        /// j, how many steps are undone at a time.
        pub jump_length: usize = 10,
        /// r, how often the steps between two places of undoing are done in all.
        pub jump_n_sample: usize = 10,
        /// In place of the configuration's.
        pub eta: Option<f64> = None,
    }
}

/// More model calls than this are taken for a slip.
const MAX_CALLS: usize = 10_000_000;

impl Sampler<RePaintConfig> {
    /// Begins to inpaint `original` `[b, c, h, w]` where `mask` is 0; where it is 1 the image is kept. The mask has the
    /// shape of the image, or 1 in place of any dimension. The model is called at [`Run::timesteps`] that go down and
    /// up; a step ends with the undoing, if any, that leads to the next of them.
    ///
    /// # Errors
    /// When the mask does not fit the image, or the steps are impossible.
    pub fn repaint_run(&self, options: &RePaintOptions, original: &Tensor, mask: &Tensor) -> Result<Box<dyn Run>> {
        self.method().repaint(&self.process(), options, original, mask).map_err(|e| e.in_class(Self::CLASS_NAME))
    }
}

impl RePaintConfig {
    fn repaint(
        &self,
        process: &Process,
        options: &RePaintOptions,
        original: &Tensor,
        mask: &Tensor,
    ) -> Result<Box<dyn Run>> {
        let mask = mask.broadcast_as(original.dims()).map_err(|_| Error::Shape {
            what: "the mask",
            got: mask.dims().to_vec(),
            expected: original.dims().to_vec(),
        })?;
        let (original, mask, eta) = (original.clone(), mask.contiguous()?, options.eta.unwrap_or(self.eta));
        check_eta(eta)?;
        let (places, undone): (Vec<usize>, Vec<usize>) = self.calls(options)?.into_iter().unzip();
        let apart = self.beta.num_train_timesteps / options.num_inference_steps; // timesteps of training in a step
        let plan = Plan::new(places.iter().map(|place| (place * apart) as f32).collect());
        let (alphas, betas, eta, clip_sample) =
            (process.alphas().clone(), self.beta.betas(), eta as f32, self.clip_sample);
        let levels = alphas.clone();
        let predict = move |call: &Call| {
            let alpha_prod = levels.at(call.timestep() as i64, 1.0);
            let (alpha, sigma) = (alpha_prod.sqrt(), (1.0 - alpha_prod).sqrt());
            let x0 = PredictionType::Epsilon.original_sample(&call.output, call.sample, alpha, sigma)?;
            if clip_sample { Ok(x0.clamp(-1f32, 1f32)?) } else { Ok(x0) }
        };

        Sampling::begin(plan, 0, predict, move |call, x0, rng| {
            check_same("the sample", call.sample, &original)?;
            let (output, sample, t) = (&call.output, call.sample, call.timestep() as usize);
            let prev_t = t as i64 - apart as i64;
            let (alpha_prod, alpha_prod_prev) = (alphas.at(t as i64, 1.0), alphas.at(prev_t, 1.0));
            let (beta_prod, beta_prod_prev) = (1.0 - alpha_prod, 1.0 - alpha_prod_prev);

            // the unknown part by DDIM's step (Song et al. 2021, equation 12), the known by line 5, with the same noise
            let noise = noise_like(sample, rng)?;
            let std = eta * (beta_prod_prev / beta_prod * (1.0 - alpha_prod / alpha_prod_prev)).sqrt();
            let direction = (beta_prod_prev - std * std).max(0.0).sqrt();
            let mut unknown = mix(alpha_prod_prev.sqrt(), &x0, direction, output)?;
            if t > 0 && eta > 0.0 {
                unknown = mix(1.0, &unknown, std, &noise)?;
            }
            let known = mix(alpha_prod_prev.sqrt(), &original, beta_prod_prev.sqrt(), &noise)?;
            let mut prev_sample = ((&mask * known)? + (mask.affine(-1.0, 1.0)? * unknown)?)?; // line 8

            // line 10, one timestep of training after the other
            for beta in &betas[t..t + undone[call.i] * apart] {
                prev_sample = mix((1.0 - beta).sqrt(), &prev_sample, beta.sqrt(), &noise_like(sample, rng)?)?;
            }
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }

    /// The places of the model calls among the steps, and how many steps are undone after each.
    fn calls(&self, options: &RePaintOptions) -> Result<Vec<(usize, usize)>> {
        let RePaintOptions { num_inference_steps: steps, jump_length, jump_n_sample, .. } = *options;
        for (option, value) in [("jump_length", jump_length), ("jump_n_sample", jump_n_sample)] {
            let expected = "it must be at least 1";
            ensure(value > 0, || Error::OptionValue { option, value: 0.0, expected })?;
        }
        check_steps(steps, self.beta.num_train_timesteps)?;
        ensure(steps.saturating_mul(jump_n_sample) <= MAX_CALLS, || {
            let reason = format!("with jump_n_sample {jump_n_sample} they are more than {MAX_CALLS} model calls");
            Error::steps(steps, reason)
        })?;
        Ok(jumps(steps, jump_length, jump_n_sample))
    }
}

impl Method for RePaintConfig {
    const CLASS_NAME: &'static str = "RePaintScheduler";
    const SUMMARY: &'static str =
        "inpainting with a model of whole images; needs an image and a mask (Lugmayr et al. 2022)";

    fn check(&self) -> Result<()> {
        self.beta.check(&[BetaSchedule::USUAL, &[BetaSchedule::Sigmoid]].concat())?;
        check_eta(self.eta)?;
        self.process().alphas().check()
    }

    fn process(&self) -> Process {
        Alphas::new(&self.beta, false).preserving(PredictionType::Epsilon)
    }

    /// Refuses: see [`repaint_run`](RePaintScheduler::repaint_run).
    fn run(&self, _: &Process, _: &RunOptions) -> Result<Box<dyn Run>> {
        Err(Error::unsupported(
            "sample from noise alone: it paints into an image, which RePaintScheduler::repaint_run takes with a mask",
        ))
    }
}
