//! Classes divided into clusters of similar images: a network that is told the cluster, too, learns sooner what the
//! image as a whole looks like.

use kakusan_rng::Generator;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::{Error, ImageSet};

/// The most clusters of a class.
pub(crate) const MOST: usize = 256;

/// Rounds of the search, unless nothing changes before.
const ROUNDS: usize = 25;

/// The centres of the clusters of each class, by k-means (Lloyd 1982) from images chosen at random, the same in every
/// run.
pub(crate) struct Clusters {
    count: usize,
    /// Of each class; none if it has no images.
    centres: Vec<Centres>,
}

impl Clusters {
    /// Divides each class of a set into `count` clusters, as [`label`](Self::label) does.
    pub(crate) fn divide(set: ImageSet, count: usize) -> Result<(Self, ImageSet), Error> {
        for (class, images) in set.counts_by_class() {
            if images < count {
                let reason = format!("is {count}, but class {class} has only {images} images: take fewer");
                return Err(Error::Config { key: "clusters", reason });
            }
        }
        let views = Views::of(&set)?;
        let centres = (0..set.class_names().len() as u32).map(|class| {
            let images: Vec<&[f32]> = (0..set.len()).filter(|&i| set.label(i) == class).map(|i| views.get(i)).collect();
            let chosen = Generator::new(0).randperm(images.len()).into_iter().take(count);
            let mut centres = Centres::at(chosen.map(|i| images[i].to_vec()).collect());
            let mut clusters = vec![];
            for _ in 0..ROUNDS {
                let nearest = images.par_iter().map(|view| centres.nearest(view)).collect();
                let before = std::mem::replace(&mut clusters, nearest);
                if clusters == before {
                    break;
                }
                let mut views = centres.views;
                for (cluster, view) in views.iter_mut().enumerate() {
                    let own = images.iter().zip(&clusters).filter(|(_, of)| **of == cluster).map(|(view, _)| *view);
                    if let Some(mean) = mean(own) {
                        *view = mean;
                    }
                }
                centres = Centres::at(views);
            }
            centres
        });
        let clusters = Self { count, centres: centres.collect() };
        let set = clusters.label_by(&views, set);
        Ok((clusters, set))
    }

    /// A set with a label for each cluster: those of a class follow one another and have its name.
    pub(crate) fn label(&self, set: ImageSet) -> Result<ImageSet, Error> {
        Ok(self.label_by(&Views::of(&set)?, set))
    }

    fn label_by(&self, views: &Views, set: ImageSet) -> ImageSet {
        let labels = (0..set.len()).into_par_iter().map(|i| {
            let class = set.label(i) as usize;
            (class * self.count + self.centres[class].nearest(views.get(i))) as u32
        });
        let labels = labels.collect();
        let names = set.class_names().iter().flat_map(|name| std::iter::repeat_n(name.clone(), self.count)).collect();
        let means = self
            .centres
            .iter()
            .flat_map(|centres| (0..self.count).map(|i| centres.views.get(i).cloned().unwrap_or_default()));
        let means = means.collect();
        set.with_labels(labels, names, means)
    }
}

/// Centres that are compared at a time: as many sums of products, each of which the vectors of any machine add up in
/// the same order.
const TOGETHER: usize = 64;

struct Centres {
    views: Vec<Vec<f32>>,
    squares: Vec<f32>,
    /// The views in groups of [`TOGETHER`], filled up with zeros: `[groups, size, TOGETHER]`.
    groups: Vec<f32>,
}

impl Centres {
    fn at(views: Vec<Vec<f32>>) -> Self {
        let size = views.first().map_or(0, Vec::len);
        let mut groups = vec![0.0; views.len().next_multiple_of(TOGETHER) * size];
        for (i, view) in views.iter().enumerate() {
            let (group, lane) = (i / TOGETHER, i % TOGETHER);
            view.iter().enumerate().for_each(|(at, x)| groups[(group * size + at) * TOGETHER + lane] = *x);
        }
        let squares = views.iter().map(|view| view.iter().map(|x| x * x).sum()).collect();
        Self { views, squares, groups }
    }

    /// The centre that is nearest to a view, the first of several; 0 if there are none.
    fn nearest(&self, view: &[f32]) -> usize {
        Arch::new().dispatch(Nearest(self, view))
    }
}

struct Nearest<'a>(&'a Centres, &'a [f32]);

impl WithSimd for Nearest<'_> {
    type Output = usize;

    /// Plain code that the compiler turns into the vectors of `S`.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        let Self(centres, view) = self;
        let groups = centres.groups.chunks_exact(view.len() * TOGETHER);
        let (mut nearest, mut least, mut at) = (0, f32::INFINITY, 0);
        for (group, squares) in groups.zip(centres.squares.chunks(TOGETHER)) {
            let mut products = [0.0; TOGETHER];
            for (x, others) in view.iter().zip(group.as_chunks::<TOGETHER>().0) {
                for lane in 0..TOGETHER {
                    products[lane] += x * others[lane];
                }
            }
            for (square, product) in squares.iter().zip(products) {
                let distance = square - 2.0 * product;
                if distance < least {
                    (nearest, least) = (at, distance);
                }
                at += 1;
            }
        }
        nearest
    }
}

fn mean<'a>(views: impl Iterator<Item = &'a [f32]>) -> Option<Vec<f32>> {
    let (mut sum, mut count) = (vec![], 0.0);
    for view in views {
        sum.resize(view.len(), 0.0);
        sum.iter_mut().zip(view).for_each(|(sum, x)| *sum += x);
        count += 1.0;
    }
    sum.iter_mut().for_each(|x| *x /= count);
    Some(sum).filter(|_| count > 0.0)
}

/// The images of a set, reduced to at most [`SIDE`] pixels a side.
struct Views {
    /// `[n, size]`
    numbers: Vec<f32>,
    size: usize,
}

const SIDE: usize = 16;

impl Views {
    fn of(set: &ImageSet) -> Result<Self, Error> {
        let [channels, height, width] = set.shape();
        let factor = height.max(width).div_ceil(SIDE);
        let (rows, columns) = (height.div_ceil(factor), width.div_ceil(factor));
        let size = channels * rows * columns;
        let mut numbers = vec![0.0; set.len() * size];
        for (i, view) in numbers.chunks_exact_mut(size).enumerate() {
            let pixels = match set.pixels_f32(&[i]) {
                Err(Error::BadImage(_)) if set.may_skip() => continue, // it is never trained on
                pixels => pixels?,
            };
            for (channel, pixels) in pixels.chunks_exact(height * width).enumerate() {
                for (at, pixel) in pixels.iter().enumerate() {
                    let (y, x) = (at / width / factor, at % width / factor);
                    view[(channel * rows + y) * columns + x] += pixel;
                }
            }
        }
        Ok(Self { numbers, size })
    }

    fn get(&self, i: usize) -> &[f32] {
        &self.numbers[i * self.size..(i + 1) * self.size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images of 3 pixels of two classes, each around four corners.
    fn set() -> ImageSet {
        let pixels: Vec<u8> = (0..64u8).flat_map(|i| [200 * (i / 2 % 2), 100 + i % 7, 200 * (i / 4 % 2)]).collect();
        let labels = (0..64).map(|i| 2 * (i % 2)).collect();
        ImageSet::new([1, 1, 3], pixels, labels, ["dark", "none", "light"].map(str::to_owned).into()).unwrap()
    }

    #[test]
    fn similar_images_of_a_class_are_a_cluster() {
        let set = set();
        let (clusters, divided) = Clusters::divide(set.clone(), 4).unwrap();
        assert!(clusters.label(set.clone()).unwrap() == divided);
        let names: Vec<&str> = divided.class_names().iter().map(String::as_str).collect();
        assert_eq!(
            names,
            ["dark", "dark", "dark", "dark", "none", "none", "none", "none", "light", "light", "light", "light"]
        );
        assert_eq!(divided.counts_by_class(), [("dark".to_owned(), 32), ("light".to_owned(), 32)]);
        for i in 0..64 {
            assert_eq!(divided.label(i) / 4, set.label(i));
            assert_eq!(divided.image(i).unwrap(), set.image(i).unwrap());
            // images around one corner are never apart
            let alike = (i + 8) % 64;
            assert_eq!(divided.label(i), divided.label(alike));
        }
        // of three pixels, the first and the last tell the corners apart
        let means = divided.label_means().unwrap();
        for i in 0..64 {
            let (mean, image) = (&means[divided.label(i) as usize], set.pixels_f32(&[i]).unwrap());
            assert!((mean[0] - image[0]).abs() < 1e-6 && (mean[2] - image[2]).abs() < 1e-6, "{mean:?}, {image:?}");
        }
        assert!(means[4..8].iter().all(|mean| mean.is_empty()) && set.label_means().is_none());
        // other images are of the nearest cluster
        let other = ImageSet::new([1, 1, 3], vec![190, 90, 30], vec![2], set.class_names().to_vec()).unwrap();
        assert_eq!(clusters.label(other).unwrap().label(0), divided.label(3));
    }

    #[test]
    fn the_nearest_of_many_centres_is_found() {
        let mut rng = Generator::new(1);
        let mut views = |count: usize| -> Vec<Vec<f32>> { (0..count).map(|_| rng.rand(11)).collect() };
        for count in [1, TOGETHER, 2 * TOGETHER + 2] {
            let centres = Centres::at(views(count));
            for view in views(40) {
                let distance = |centre: &Vec<f32>| -> f64 {
                    centre.iter().zip(&view).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
                };
                let distances = centres.views.iter().map(distance).enumerate();
                let expected = distances.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(i, _)| i);
                assert_eq!(Some(centres.nearest(&view)), expected, "of {count}");
            }
        }
        assert_eq!(Centres::at(vec![]).nearest(&[1.0]), 0);
    }

    #[test]
    fn equal_images_and_too_few_are_no_trouble() {
        let names = || vec!["all".to_owned()];
        let equal = ImageSet::new([1, 1, 1], vec![7; 8], vec![0; 8], names()).unwrap();
        let (_, divided) = Clusters::divide(equal, 4).unwrap();
        assert_eq!(divided.counts_by_class(), [("all".to_owned(), 8)]);
        let few = ImageSet::new([1, 1, 1], vec![7; 3], vec![0; 3], names()).unwrap();
        let Err(error) = Clusters::divide(few, 4) else { panic!("3 images are not 4 clusters") };
        assert!(error.to_string().contains("is 4, but class all has only 3 images"), "{error}");
    }
}
