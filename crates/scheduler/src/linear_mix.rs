use candle_core::{Device, Tensor};
use kakusan_rng::Generator;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Draw, Error, PixelRange, Result, Run, Scheduler, StepOutput};

/// The tutorial's mix of image and noise, without a schedule (Hugging Face's diffusion course, unit 1, "Diffusion from
/// scratch").
///
/// - Corrupting: `noisy = x * (1 - amount) + noise * amount`, noise uniform on `[0, 1)`, the amount uniform on `[0, 1)`,
///   one for each image. An amount of 0 leaves the image, 1 leaves only noise. The model predicts the clean image.
/// - Sampling in `n` steps: step `i` mixes the prediction in by `f = 1 / (n - i)`, so that the last step takes it whole.
///   Before step `i` the sample still holds noise of amount `(n - i) / n`, which is the level handed to the model.
///
/// It has no configuration. diffusers has no such class; its `_class_name` is `LinearMixScheduler`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearMixScheduler {}

impl LinearMixScheduler {
    /// The `_class_name` under which it is registered.
    pub const CLASS_NAME: &'static str = "LinearMixScheduler";
}

impl Scheduler for LinearMixScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        Map::new()
    }

    fn pixel_range(&self) -> PixelRange {
        PixelRange::ZeroToOne
    }

    /// `rand(b)` for the amounts first, then `rand([b, c, h, w])` for the noise: the tutorial's order.
    fn draw(&self, clean: &Tensor, rng: &mut Generator) -> Result<Draw> {
        let batch = clean.dim(0)?;
        let levels = Tensor::from_vec(rng.rand(batch), batch, clean.device())?;
        let noise = uniform_noise(clean.dims(), clean.device(), rng)?;
        Ok(Draw { noise, levels })
    }

    fn add_noise(&self, clean: &Tensor, noise: &Tensor, levels: &Tensor) -> Result<Tensor> {
        check_shapes(clean, noise, levels)?;
        let mut per_image = vec![1; clean.rank()];
        per_image[0] = levels.elem_count();
        let amount = levels.reshape(per_image)?; // [b] -> [b, 1, 1, 1]
        let kept = amount.affine(-1.0, 1.0)?;
        Ok((clean.broadcast_mul(&kept)? + noise.broadcast_mul(&amount)?)?)
    }

    fn target(&self, clean: &Tensor, noise: &Tensor, levels: &Tensor) -> Result<Tensor> {
        check_shapes(clean, noise, levels)?;
        Ok(clean.clone())
    }

    fn initial_noise(&self, shape: &[usize], device: &Device, rng: &mut Generator) -> Result<Tensor> {
        uniform_noise(shape, device, rng)
    }

    fn run(&self, num_inference_steps: usize) -> Result<Box<dyn Run>> {
        let n = num_inference_steps;
        if n == 0 {
            let class_name = Self::CLASS_NAME.into();
            return Err(Error::Steps { class_name, steps: n, reason: "at least one is needed".into() });
        }
        let timesteps = (0..n).map(|i| ((n - i) as f64 / n as f64) as f32).collect();
        Ok(Box::new(LinearMixRun { timesteps, i: 0 }))
    }
}

/// A sampling by [`LinearMixScheduler`]; it remembers nothing but where it is.
#[derive(Debug)]
struct LinearMixRun {
    timesteps: Vec<f32>,
    i: usize,
}

impl Run for LinearMixRun {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn level(&self) -> Option<f32> {
        self.timesteps.get(self.i).copied()
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, _rng: &mut Generator) -> Result<StepOutput> {
        let n = self.timesteps.len();
        if self.i >= n {
            return Err(Error::RunIsOver { steps: n });
        }
        check_same("the model's output", model_output, sample)?;
        let f = 1.0 / (n - self.i) as f64;
        self.i += 1;
        let prev_sample = (sample.affine(1.0 - f, 0.0)? + model_output.affine(f, 0.0)?)?;
        Ok(StepOutput { prev_sample, pred_original_sample: model_output.clone() })
    }
}

fn uniform_noise(shape: &[usize], device: &Device, rng: &mut Generator) -> Result<Tensor> {
    Ok(Tensor::from_vec(rng.rand(shape.iter().product()), shape, device)?)
}

fn check_shapes(clean: &Tensor, noise: &Tensor, levels: &Tensor) -> Result<()> {
    check_same("the noise", noise, clean)?;
    let expected = vec![clean.dim(0)?];
    if levels.dims() != expected {
        return Err(Error::Shape { what: "the levels", got: levels.dims().to_vec(), expected });
    }
    Ok(())
}

fn check_same(what: &'static str, tensor: &Tensor, like: &Tensor) -> Result<()> {
    if tensor.dims() != like.dims() {
        let (got, expected) = (tensor.dims().to_vec(), like.dims().to_vec());
        return Err(Error::Shape { what, got, expected });
    }
    Ok(())
}
