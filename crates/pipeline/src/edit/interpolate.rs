use std::ops::ControlFlow;

use candle_core::{DType, Tensor};
use kakusan_rng::{Generator, PerImage};

use super::MOST_AT_ONCE;
use crate::{DDPMPipeline, Error, Result, SampleOptions};

/// Two tensors of which the cosine of the angle is larger are treated as parallel.
const PARALLEL: f64 = 0.9995;

/// Images on the way from one noise to another.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Interpolation {
    /// The frames `[n, c, h, w]`, in the scheduler's range.
    pub images: Tensor,
    /// Whether the scheduler drew noise in its steps. It was the same for all frames.
    pub draws_noise: bool,
}

/// Spherical linear interpolation from `a` (`t` = 0) to `b` (`t` = 1), as if both were one vector (Shoemake 1985):
/// `(sin((1 - t) θ) a + sin(t θ) b) / sin(θ)`, where θ is the angle between them. Nearly parallel ones are interpolated
/// linearly.
///
/// Normal noise has nearly the same norm wherever it is drawn, `√n` for `n` values, and so has what lies between on the
/// sphere. On the straight line the norm would be smaller by up to `√½`, with which models draw blurred images.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use kakusan_pipeline::slerp;
///
/// let (a, b) = (Tensor::new(&[1f32, 0.0], &Device::Cpu)?, Tensor::new(&[0f32, 1.0], &Device::Cpu)?);
/// let middle = slerp(&a, &b, 0.5)?.to_vec1::<f32>()?;
/// assert!(middle.iter().all(|value| (value - 0.5f32.sqrt()).abs() < 1e-6));
/// # Ok::<(), kakusan_pipeline::Error>(())
/// ```
///
/// # Errors
/// When the shapes differ, or the tensor library fails.
pub fn slerp(a: &Tensor, b: &Tensor, t: f64) -> Result<Tensor> {
    let product = |a: &Tensor, b: &Tensor| -> Result<f64> {
        let (a, b) = (a.to_dtype(DType::F64)?, b.to_dtype(DType::F64)?);
        Ok((a * b)?.sum_all()?.to_scalar::<f64>()?)
    };
    let cosine = product(a, b)? / (product(a, a)? * product(b, b)?).sqrt();
    let mix = |of_a: f64, of_b: f64| -> Result<Tensor> { Ok((a.affine(of_a, 0.0)? + b.affine(of_b, 0.0)?)?) };
    // a tensor of zeros, which has no direction, is interpolated linearly, too
    if cosine.is_nan() || cosine.abs() > PARALLEL {
        return mix(1.0 - t, t);
    }
    let angle = cosine.acos();
    mix((angle - angle * t).sin() / angle.sin(), (angle * t).sin() / angle.sin())
}

impl DDPMPipeline {
    /// Draws images on the way from the noise of one seed to that of another, at even distances by [`slerp`]. The batch
    /// size of `options` is the number of frames. The first and the last are the images of the two seeds
    /// ([`PerImage`]). Returns `[n, c, h, w]` in the scheduler's range.
    ///
    /// A scheduler that draws noise in its steps draws the same for all frames, that of the first seed. The images then
    /// change less smoothly than by a deterministic one: [`Interpolation::draws_noise`].
    ///
    /// `watch` is told how many model calls are done, and of how many. If it returns [`ControlFlow::Break`], the result
    /// is `None`.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// # use std::sync::Arc;
    /// # use candle_core::Device;
    /// # use kakusan_models::{BasicUNetConfig, ModelConfig, Weights};
    /// # use kakusan_pipeline::{DDPMPipeline, SampleOptions};
    /// # use kakusan_rng::Generator;
    /// # use kakusan_scheduler::LinearMixScheduler;
    ///
    /// # let config = Arc::new(BasicUNetConfig::default());
    /// # let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
    /// # let pipeline = DDPMPipeline::new(config, weights, Arc::new(LinearMixScheduler::default()))?;
    /// let five_frames = SampleOptions::new(5).steps(3);
    /// let way = pipeline.interpolate([3, 7], &five_frames, |_, _| ControlFlow::Continue(()))?.unwrap();
    /// assert_eq!(way.images.dims(), [5, 1, 28, 28]);
    /// assert!(!way.draws_noise);
    /// # Ok::<(), kakusan_pipeline::Error>(())
    /// ```
    ///
    /// # Errors
    /// When there are fewer than two frames, the options have images or a sample to start from, and as
    /// [`sample_with`](Self::sample_with).
    pub fn interpolate(
        &self,
        [first, last]: [u64; 2],
        options: &SampleOptions,
        mut watch: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<Interpolation>> {
        let frames = options.batch_size;
        if frames < 2 {
            return Err(Error::Unfit(format!("an interpolation has at least 2 frames, and {frames} are asked for")));
        }
        if options.images.is_some() || options.initial_sample.is_some() {
            return Err(Error::Unfit("an interpolation starts from noise: leave out images and samples".into()));
        }
        let [channels, height, width] = self.sample_shape()?;
        let run = self.scheduler().run_with(&options.run)?;
        let calls = run.timesteps().len();
        let noise = |rng: &mut Generator| run.initial_noise(&[1, channels, height, width], self.device(), rng);
        let mut of_steps = Generator::new(first);
        let ends = [noise(&mut of_steps)?, noise(&mut Generator::new(last))?];

        let (mut images, mut draws_noise) = (vec![], false);
        let chunks = frames.div_ceil(MOST_AT_ONCE);
        for chunk in 0..chunks {
            let places: Vec<usize> = (chunk * MOST_AT_ONCE..frames.min((chunk + 1) * MOST_AT_ONCE)).collect();
            let at = |&place: &usize| slerp(&ends[0], &ends[1], place as f64 / (frames - 1) as f64);
            let noises = places.iter().map(at).collect::<Result<Vec<_>>>()?;
            let mut options = options.clone().initial_sample(Tensor::cat(&noises, 0)?);
            options.batch_size = places.len();
            options.class_labels = options.class_labels.map(|labels| of_places(&labels, &places));
            let before = PerImage::new(vec![of_steps.clone(); places.len()]);
            let (mut rng, mut stopped) = (before.clone(), false);
            images.push(self.sample_with(&options, &mut rng, |step| {
                let flow = watch(chunk * calls + step.index + 1, chunks * calls);
                stopped |= flow.is_break();
                flow
            })?);
            if stopped {
                return Ok(None);
            }
            draws_noise |= rng != before;
        }
        Ok(Some(Interpolation { images: Tensor::cat(&images, 0)?, draws_noise }))
    }
}

/// The labels of these images. Labels that are missing are left out, which the sampling refuses.
fn of_places(labels: &[u32], places: &[usize]) -> Vec<u32> {
    places.iter().filter_map(|&place| labels.get(place).copied()).collect()
}
