use crate::{CudaGenerator, Error, Generator};

/// What draws a batch's noise: one generator for all images, or one for each ([`PerImage`]).
///
/// It corresponds to diffusers' `randn_tensor`, which takes a generator or a list of generators.
pub trait Noise: Send {
    /// Standard normal numbers for a tensor of `shape`, whose first dimension counts the images.
    ///
    /// # Errors
    /// When this noise is not for so many images.
    fn randn_tensor(&mut self, shape: &[usize]) -> Result<Vec<f32>, Error>;

    /// Normal numbers of this mean and standard deviation for a tensor of `shape`, whose first dimension counts the
    /// images: `torch.normal`.
    ///
    /// # Errors
    /// When this noise is not for so many images.
    fn normal_tensor(&mut self, shape: &[usize], mean: f64, std: f64) -> Result<Vec<f32>, Error>;

    /// Uniform numbers on `[0, 1)` for a tensor of `shape`, whose first dimension counts the images.
    ///
    /// # Errors
    /// When this noise is not for so many images.
    fn rand_tensor(&mut self, shape: &[usize]) -> Result<Vec<f32>, Error>;

    /// Integers from `low` to `high`, without `high` itself, for a tensor of `shape`, whose first dimension counts the
    /// images.
    ///
    /// # Errors
    /// When this noise is not for so many images, or there is no such integer.
    fn randint_tensor(&mut self, shape: &[usize], low: i64, high: i64) -> Result<Vec<i64>, Error>;
}

/// One generator for all images.
macro_rules! noise_of {
    ($generator:ty) => {
        impl Noise for $generator {
            fn randn_tensor(&mut self, shape: &[usize]) -> Result<Vec<f32>, Error> {
                Ok(self.randn(shape.iter().product()))
            }

            fn normal_tensor(&mut self, shape: &[usize], mean: f64, std: f64) -> Result<Vec<f32>, Error> {
                Ok(self.normal(shape.iter().product(), mean, std))
            }

            fn rand_tensor(&mut self, shape: &[usize]) -> Result<Vec<f32>, Error> {
                Ok(self.rand(shape.iter().product()))
            }

            fn randint_tensor(&mut self, shape: &[usize], low: i64, high: i64) -> Result<Vec<i64>, Error> {
                self.randint(shape.iter().product(), low, high)
            }
        }
    };
}

noise_of!(Generator);
noise_of!(CudaGenerator);

/// A generator for each image of a batch: the noise of image `k` does not depend on the other images.
///
/// ```
/// use kakusan_rng::{Generator, Noise, PerImage};
///
/// let mut batch = PerImage::from_seeds([7, 8]);
/// let mut alone = Generator::new(8);
/// assert_eq!(batch.randn_tensor(&[2, 1, 4, 4])?[16..], alone.randn_tensor(&[1, 1, 4, 4])?);
/// # Ok::<(), kakusan_rng::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct PerImage<N = Generator>(Vec<N>);

impl PerImage {
    /// One generator for each seed, in order.
    pub fn from_seeds(seeds: impl IntoIterator<Item = u64>) -> Self {
        Self(seeds.into_iter().map(Generator::new).collect())
    }
}

impl<N: Noise> PerImage<N> {
    /// One generator for each image, in order.
    pub fn new(generators: Vec<N>) -> Self {
        Self(generators)
    }

    fn each<T>(
        &mut self,
        shape: &[usize],
        draw: impl Fn(&mut N, &[usize]) -> Result<Vec<T>, Error>,
    ) -> Result<Vec<T>, Error> {
        let images = shape.first().copied().unwrap_or(1);
        if images != self.0.len() {
            return Err(Error::Generators { generators: self.0.len(), images });
        }
        let image = [&[1], shape.get(1..).unwrap_or_default()].concat();
        let each: Vec<Vec<T>> = self.0.iter_mut().map(|rng| draw(rng, &image)).collect::<Result<_, _>>()?;
        Ok(each.into_iter().flatten().collect())
    }
}

impl<N: Noise> Noise for PerImage<N> {
    fn randn_tensor(&mut self, shape: &[usize]) -> Result<Vec<f32>, Error> {
        self.each(shape, |rng, shape| rng.randn_tensor(shape))
    }

    fn normal_tensor(&mut self, shape: &[usize], mean: f64, std: f64) -> Result<Vec<f32>, Error> {
        self.each(shape, |rng, shape| rng.normal_tensor(shape, mean, std))
    }

    fn rand_tensor(&mut self, shape: &[usize]) -> Result<Vec<f32>, Error> {
        self.each(shape, |rng, shape| rng.rand_tensor(shape))
    }

    fn randint_tensor(&mut self, shape: &[usize], low: i64, high: i64) -> Result<Vec<i64>, Error> {
        self.each(shape, |rng, shape| rng.randint_tensor(shape, low, high))
    }
}
