use std::fmt::{self, Debug};
use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::log_softmax;
use kakusan_ops::PreparedWeights;
use kakusan_pipeline::{Error, Guidance, Predicted, Result};

use super::Classifier;

/// Images of a class, as a [`Classifier`] tells them apart (classifier guidance, Dhariwal and Nichol 2021): the
/// cross-entropy of the class. It guides any model of images like those of the classifier, also one without classes.
///
/// ```
/// use std::ops::ControlFlow;
/// use std::sync::Arc;
/// use kakusan_data::draw_digits;
/// use kakusan_eval::{ClassGuidance, Classifier, ClassifierConfig};
/// use kakusan_pipeline::{Guide, SampleOptions};
///
/// # fn main() -> kakusan_pipeline::Result<()> {
/// let (digits, config) = (draw_digits(&[1, 8], 32, 0)?, ClassifierConfig { epochs: 1, ..Default::default() });
/// let classifier = Classifier::train(&digits, None, config, &mut |_| ControlFlow::Continue(()))?;
/// let eights = ClassGuidance::new(Arc::new(classifier), vec![8])?; // class 8 of MNIST
/// let options = SampleOptions::new(16).guide(Guide::new(eights, 5.0));
/// # Ok(())
/// # }
/// ```
pub struct ClassGuidance {
    classifier: Arc<Classifier>,
    classes: Vec<u32>,
    /// The classifier is not trained any further.
    _prepared: PreparedWeights,
}

impl Debug for ClassGuidance {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("ClassGuidance").field("classes", &self.classes).finish_non_exhaustive()
    }
}

impl ClassGuidance {
    /// Guides each image to one of these classes, which take turns.
    ///
    /// # Errors
    /// When there are no classes, or the classifier does not know one.
    pub fn new(classifier: Arc<Classifier>, classes: Vec<u32>) -> Result<Self> {
        let known = classifier.classes;
        match classes.iter().find(|&&class| class as usize >= known) {
            _ if classes.is_empty() => Err(Error::Unfit("there is no class to guide to".into())),
            Some(class) => Err(Error::Unfit(format!("the classifier knows {known} classes, from 0; not {class}"))),
            None => {
                let weights = classifier.weights.iter().map(|(_, var)| var.as_tensor());
                let _prepared = PreparedWeights::new(weights);
                Ok(Self { classifier, classes, _prepared })
            }
        }
    }
}

impl Guidance for ClassGuidance {
    fn loss(&self, predicted: &Predicted) -> Result<Tensor> {
        let network = &self.classifier.network;
        let pixels = predicted.images.affine(0.5, 0.5)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let n = predicted.part.len();
        let classes = predicted.part.clone().map(|i| self.classes[i % self.classes.len()]);
        let classes = Tensor::from_vec(classes.collect::<Vec<u32>>(), (n, 1), &Device::Cpu)?;
        let scores = network.scores(&network.features(&pixels)?)?;
        let right = log_softmax(&scores, D::Minus1)?.gather(&classes, 1)?;
        Ok(right.squeeze(1)?.neg()?.to_device(predicted.images.device())?)
    }

    fn check(&self, _: usize, shape: [usize; 3]) -> Result<()> {
        let known = self.classifier.shape;
        if shape == known {
            return Ok(());
        }
        Err(Error::Unfit(format!(
            "the classifier knows images of {known:?} (channels, height, width), and the model draws {shape:?}"
        )))
    }
}
