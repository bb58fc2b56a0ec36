//! All figures of a set of images against a reference.

use std::ops::ControlFlow;
use std::sync::Arc;

use kakusan_data::ImageSet;
use kakusan_pipeline::{Error, Result};
use kakusan_rng::Generator;
use serde::{Deserialize, Serialize};

use crate::features::Images;
use crate::figures::Subsets;
use crate::{Embedding, FeatureNetwork, Gaussian, Neighbour, embed, kernel_distance, nearest, precision_recall};

/// What the figures are computed with; the defaults are those of the papers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// The seed of the random subsets.
    pub seed: u64,
    /// The subsets of the kernel distance.
    pub subsets: Subsets,
    /// The nearest neighbour to which an image's ball reaches, for precision and recall: 3.
    pub k: usize,
    /// The most images of either set that precision and recall compare: 10,000.
    pub manifold: usize,
    /// The classifier is sure of an image if it gives its class at least this probability: 0.95.
    pub sure: f32,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 0, subsets: Subsets::default(), k: 3, manifold: 10_000, sure: 0.95 }
    }
}

/// How a set of images compares with the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The number of images.
    pub images: usize,
    /// The Fréchet distance of their features' Gaussians (Heusel et al. 2017): FID, if the network is Inception. It is
    /// larger for fewer images.
    pub frechet_distance: f64,
    /// The kernel distance (Bińkowski et al. 2018), which does not depend on the number of images.
    pub kid: f64,
    /// Its standard deviation over random subsets.
    pub kid_std: f64,
    /// The share of the images that are within the reference's manifold (Kynkäänniemi et al. 2019).
    pub precision: f64,
    /// The share of the reference that is within the images' manifold.
    pub recall: f64,
    /// The median distance to the nearest image of the reference. Images that are much nearer than held-out ones are
    /// copies.
    pub nearest: f64,
    /// The share of the images that the classifier is sure of ([`Options::sure`]).
    pub sure: Option<f64>,
    /// How many of the images the classifier takes for each class.
    pub classes: Option<Vec<ClassShare>>,
}

/// The share of a class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassShare {
    /// The class.
    pub name: String,
    /// Of the images, as the classifier sees them.
    pub share: f64,
    /// Of the reference, by its labels.
    pub reference: f64,
}

/// Compares sets of images with a reference, whose features are computed once.
///
/// ```
/// use std::{ops::ControlFlow, sync::Arc};
/// use kakusan_data::draw_digits;
/// use kakusan_eval::{Classifier, ClassifierConfig, Evaluator, Options};
///
/// # fn main() -> kakusan_pipeline::Result<()> {
/// let (digits, others) = (Arc::new(draw_digits(&[1, 8], 64, 0)?), draw_digits(&[1, 8], 32, 1)?);
/// let config = ClassifierConfig { epochs: 4, batch_size: 32, ..Default::default() };
/// let classifier = Classifier::train(&digits, Some(&others), config, &mut |_| ControlFlow::Continue(()))?;
/// let watch = &mut |_| ControlFlow::Continue(());
/// let evaluator = Evaluator::new(Arc::new(classifier), digits, Options::default(), watch)?;
/// let (figures, _) = evaluator.figures(&others, watch)?;
/// assert!(figures.frechet_distance < 50.0 && figures.precision > 0.5);
/// # Ok(())
/// # }
/// ```
pub struct Evaluator {
    network: Arc<dyn FeatureNetwork>,
    images: Arc<ImageSet>,
    /// The images that could be read.
    indices: Vec<usize>,
    reference: Embedding,
    gaussian: Gaussian,
    options: Options,
}

impl Evaluator {
    /// Computes the features of the reference, usually the images that the model was trained on.
    ///
    /// # Errors
    /// As [`embed`], and when there are fewer than two images.
    pub fn new(
        network: Arc<dyn FeatureNetwork>,
        reference: Arc<ImageSet>,
        options: Options,
        watch: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Self> {
        let all: Vec<usize> = (0..reference.len()).collect();
        Self::of_some(network, reference, &all, options, watch)
    }

    /// As [`new`](Self::new), with only those images of the set that have these indices.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_some(
        network: Arc<dyn FeatureNetwork>,
        images: Arc<ImageSet>,
        indices: &[usize],
        options: Options,
        watch: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Self> {
        let (indices, reference) = embed(network.as_ref(), images.as_ref(), indices, watch)?;
        let gaussian = Gaussian::of(&reference.features)?;
        Ok(Self { network, images, indices, reference, gaussian, options })
    }

    /// The network whose features are compared.
    pub fn network(&self) -> &dyn FeatureNetwork {
        self.network.as_ref()
    }

    /// The number of images of the reference.
    pub fn reference_len(&self) -> usize {
        self.indices.len()
    }

    /// The figures of images against the reference, and their features. `watch` is told how many images are done.
    ///
    /// # Errors
    /// As [`embed`], and when there are fewer images than the figures need: five.
    pub fn figures(
        &self,
        images: &dyn Images,
        watch: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<(Figures, Embedding)> {
        let all: Vec<usize> = (0..images.count()).collect();
        self.figures_of(images, &all, watch)
    }

    /// As [`figures`](Self::figures), of the images with these indices.
    ///
    /// # Errors
    /// As [`figures`](Self::figures).
    pub fn figures_of(
        &self,
        images: &dyn Images,
        indices: &[usize],
        watch: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<(Figures, Embedding)> {
        if images.shape() != self.images.shape() {
            let (got, expected) = (images.shape(), self.images.shape());
            return Err(Error::Unfit(format!(
                "the images are {got:?} (channels, height, width), those that they are compared with {expected:?}"
            )));
        }
        let (_, embedding) = embed(self.network.as_ref(), images, indices, watch)?;
        Ok((self.compare(&embedding)?, embedding))
    }

    /// The figures of images whose features are known.
    ///
    /// # Errors
    /// When there are fewer images than the figures need.
    pub fn compare(&self, images: &Embedding) -> Result<Figures> {
        let Options { seed, subsets, k, manifold, sure } = self.options;
        let (own, reference) = (&images.features, &self.reference.features);
        let mut rng = Generator::new(seed);
        let kid = kernel_distance(reference, own, subsets, &mut rng)?;
        // both sets have the same number of images, since more of them make a larger manifold
        let count = own.len().min(reference.len()).min(manifold);
        let mut some = |of: &crate::Features| of.select(&rng.randperm(of.len())[..count]);
        let manifolds = precision_recall(&some(reference), &some(own), k)?;
        let mut distances: Vec<f64> =
            nearest(own, reference, 1)?.iter().flatten().map(|neighbour| neighbour.distance).collect();
        distances.sort_by(f64::total_cmp);
        let share = |count: usize| count as f64 / own.len() as f64;
        let sure = images.classes.as_ref().map(|all| share(all.iter().filter(|(_, p)| *p >= sure).count()));
        Ok(Figures {
            images: own.len(),
            frechet_distance: self.gaussian.distance(&Gaussian::of(own)?)?,
            kid: kid.mean,
            kid_std: kid.std,
            precision: manifolds.precision,
            recall: manifolds.recall,
            nearest: distances.get(distances.len() / 2).copied().unwrap_or(0.0),
            sure,
            classes: images.classes.as_deref().map(|classes| self.shares(classes)),
        })
    }

    /// For each image, the `k` nearest of the reference; their indices are those of the set.
    ///
    /// # Errors
    /// When the features are of another network.
    pub fn nearest(&self, images: &Embedding, k: usize) -> Result<Vec<Vec<Neighbour>>> {
        let mut found = nearest(&images.features, &self.reference.features, k)?;
        found.iter_mut().flatten().for_each(|neighbour| neighbour.index = self.indices[neighbour.index]);
        Ok(found)
    }

    /// The share of each class that occurs in the images or in the reference.
    fn shares(&self, classes: &[(u32, f32)]) -> Vec<ClassShare> {
        let names = self.images.class_names();
        let (mut own, mut reference) = (vec![0usize; names.len()], vec![0usize; names.len()]);
        classes.iter().for_each(|(class, _)| own[*class as usize] += 1);
        self.indices.iter().for_each(|&i| reference[self.images.label(i) as usize] += 1);
        let share = |count: usize, of: usize| count as f64 / (of as f64).max(1.0);
        let shares = names.iter().zip(own).zip(reference).filter(|((_, own), reference)| own + reference > 0);
        let share = |((name, own), of): ((&String, usize), usize)| ClassShare {
            name: name.clone(),
            share: share(own, classes.len()),
            reference: share(of, self.indices.len()),
        };
        shares.map(share).collect()
    }
}
