use crate::prelude::*;

/// The tutorial's mix of image and noise, without a schedule (Hugging Face's diffusion course, unit 1, "Diffusion from
/// scratch").
///
/// - Corrupting: `noisy = x * (1 - amount) + noise * amount`, noise uniform on `[0, 1)`, the amount uniform on `[0,
///   1)`, one for each image. An amount of 0 leaves the image, 1 leaves only noise. The model predicts the clean image.
/// - Sampling in `n` steps: step `i` mixes the prediction in by `f = 1 / (n - i)`, so that the last step takes all of
///   it. Before step `i` the sample still holds noise of amount `(n - i) / n`, which the model is conditioned on.
///
/// diffusers has no such class; its `_class_name` is `LinearMixScheduler`.
pub type LinearMixScheduler = Sampler<LinearMixConfig>;

config! {
    /// The configuration of [`LinearMixScheduler`].
    pub struct LinearMixConfig {
        /// What the model is conditioned on, always, in place of the amount of noise: the course's second model gets 0.
        pub timestep: Option<f32> = None,
    }
}

impl Method for LinearMixConfig {
    const CLASS_NAME: &'static str = "LinearMixScheduler";
    const SUMMARY: &'static str = "the tutorial's mix of image and uniform noise, without a schedule";

    fn process(&self) -> Process {
        let process = Process::new(Levels::continuous(|u| u), PredictionType::Sample, |amount| (1.0 - amount, amount))
            .uniform_noise()
            .on_pixels(PixelRange::ZeroToOne);
        match self.timestep {
            None => process,
            Some(timestep) => process.conditioned_on(move |_| timestep),
        }
    }

    fn run(&self, _: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let n = check_count(options.num_steps())?;
        let timesteps = (0..n).map(|i| self.timestep.unwrap_or(amount(i, n))).collect();
        Ok(Box::new(LinearMixRun { steps: Steps::new(timesteps, options.start)? }))
    }
}

/// A sampling by [`LinearMixScheduler`]; it remembers nothing but where it is.
#[derive(Debug)]
struct LinearMixRun {
    steps: Steps,
}

impl Run for LinearMixRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    /// `rand([b, c, h, w])`
    fn initial_noise(&self, shape: &[usize], device: &Device, rng: &mut dyn Noise) -> Result<Tensor> {
        rand(shape, device, rng)
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        let amount = amount(self.steps.index()?, self.timesteps().len());
        Ok((1.0 - amount, amount))
    }

    fn alpha_sigmas(&self) -> Option<Vec<(f32, f32)>> {
        let n = self.timesteps().len();
        Some((0..n).map(|i| amount(i, n)).map(|amount| (1.0 - amount, amount)).collect())
    }

    fn pred_original_sample(&self, model_output: &Tensor, sample: &Tensor) -> Result<Tensor> {
        check_same("the model's output", model_output, sample)?;
        Ok(model_output.clone())
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, _rng: &mut dyn Noise) -> Result<StepOutput> {
        let i = self.steps.index()?;
        check_same("the model's output", model_output, sample)?;
        let f = 1.0 / (self.timesteps().len() - i) as f64;
        self.steps.advance();
        let prev_sample = (sample.affine(1.0 - f, 0.0)? + model_output.affine(f, 0.0)?)?;
        Ok(StepOutput { prev_sample, pred_original_sample: model_output.clone() })
    }
}

/// How much noise the sample still holds before step `i` of `n`.
fn amount(i: usize, n: usize) -> f32 {
    ((n - i) as f64 / n as f64) as f32
}
