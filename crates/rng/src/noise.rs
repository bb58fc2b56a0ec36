use crate::{Error, Generator};

/// The source of a batch's noise: one generator for all images, or one for each ([`PerImage`]).
///
/// It corresponds to diffusers' `randn_tensor`, which takes a generator or a list of generators.
pub trait Noise: Send {
    /// Standard normal numbers for a tensor of `shape`, whose first dimension counts the images.
    ///
    /// # Errors
    /// When this noise is not for so many images.
    fn randn_tensor(&mut self, shape: &[usize]) -> Result<Vec<f32>, Error>;

    /// Uniform numbers on `[0, 1)` for a tensor of `shape`, whose first dimension counts the images.
    ///
    /// # Errors
    /// When this noise is not for so many images.
    fn rand_tensor(&mut self, shape: &[usize]) -> Result<Vec<f32>, Error>;
}

impl Noise for Generator {
    fn randn_tensor(&mut self, shape: &[usize]) -> Result<Vec<f32>, Error> {
        Ok(self.randn(shape.iter().product()))
    }

    fn rand_tensor(&mut self, shape: &[usize]) -> Result<Vec<f32>, Error> {
        Ok(self.rand(shape.iter().product()))
    }
}

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
#[derive(Debug, Clone)]
pub struct PerImage(Vec<Generator>);

impl PerImage {
    /// One generator for each image, in order.
    pub fn new(generators: Vec<Generator>) -> Self {
        Self(generators)
    }

    /// One generator for each seed, in order.
    pub fn from_seeds(seeds: impl IntoIterator<Item = u64>) -> Self {
        Self(seeds.into_iter().map(Generator::new).collect())
    }

    fn each(&mut self, shape: &[usize], draw: fn(&mut Generator, usize) -> Vec<f32>) -> Result<Vec<f32>, Error> {
        let images = shape.first().copied().unwrap_or(1);
        if images != self.0.len() {
            return Err(Error::Generators { generators: self.0.len(), images });
        }
        let image = shape.iter().skip(1).product();
        Ok(self.0.iter_mut().flat_map(|rng| draw(rng, image)).collect())
    }
}

impl Noise for PerImage {
    fn randn_tensor(&mut self, shape: &[usize]) -> Result<Vec<f32>, Error> {
        self.each(shape, Generator::randn)
    }

    fn rand_tensor(&mut self, shape: &[usize]) -> Result<Vec<f32>, Error> {
        self.each(shape, Generator::rand)
    }
}
