//! InceptionV3 (Szegedy et al. 2015), whose features the FID of papers compares.

mod blocks;
mod conv;
mod resize;

use std::path::Path;

use candle_core::{Device, Tensor};
use kakusan_ops::{PreparedWeights, predict};
use kakusan_pipeline::{Error, Result};
use kakusan_weights::Checkpoint;

use crate::FeatureNetwork;
use blocks::{BlockA, BlockB, BlockC, BlockD, BlockE, PoolOfE, max_pool};
use conv::{Conv, Loader};
use resize::resize;

/// The features of an image.
const FEATURES: usize = 2048;
/// Height and width of the network's input.
const SIDE: usize = 299;

/// Gives the values of a tensor, by its name and shape.
pub type GetTensor<'a> = dyn FnMut(&str, &[usize]) -> Result<Vec<f32>> + 'a;

/// Which InceptionV3 it is: they have the same tensors, and differ in three kinds of pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InceptionVariant {
    /// The one of the FID (Heusel et al. 2017), from TensorFlow: `pt_inception-2015-12-05-6726825d.pth` of pytorch-fid.
    Fid,
    /// torchvision's `inception_v3`.
    Torchvision,
}

/// InceptionV3 up to its last pooling: 2,048 features of an image of any size, as `pytorch-fid` computes them.
///
/// Images are resized to 299 x 299 (bilinear, without antialiasing), grey ones are repeated in red, green and blue.
pub struct InceptionV3 {
    variant: InceptionVariant,
    stem: [Conv; 5],
    a: [BlockA; 3],
    b: BlockB,
    c: [BlockC; 4],
    d: BlockD,
    e: [BlockE; 2],
    /// The weights that our kernels prepare.
    weights: Vec<Tensor>,
}

impl InceptionV3 {
    /// Loads the weights of pytorch-fid, or those of torchvision, from a `.pth`, `.bin` or `.safetensors` file. The
    /// number of classes tells which they are: 1,008 or 1,000.
    ///
    /// # Errors
    /// When the file cannot be read, or does not hold these weights.
    pub fn load(path: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let unfit = |reason: String| {
            let hint = "expected the weights of pytorch-fid (pt_inception-2015-12-05-6726825d.pth) or of torchvision's \
                        inception_v3";
            Error::Unfit(format!("{}: {reason}; {hint}", path.display()))
        };
        let variant = match checkpoint.info("fc.weight").map(|info| info.shape.as_slice()) {
            Some([1008, FEATURES]) => InceptionVariant::Fid,
            Some([1000, FEATURES]) => InceptionVariant::Torchvision,
            Some(shape) => {
                return Err(unfit(format!("its fc.weight is {shape:?}, and not for 1,008 or 1,000 classes")));
            }
            None => return Err(unfit("it has no fc.weight".to_owned())),
        };
        Self::from_tensors(variant, &mut |name, shape| match checkpoint.info(name) {
            Some(info) if info.shape == shape => Ok(checkpoint.values(name)?),
            Some(info) => Err(unfit(format!("its {name} is {:?}, expected {shape:?}", info.shape))),
            None => Err(unfit(format!("it has no {name}"))),
        })
    }

    /// The network with the tensors that `tensor` gives for a name and a shape, in the order of torchvision's
    /// `state_dict`: of each convolution `conv.weight`, `bn.weight`, `bn.bias`, `bn.running_mean`, `bn.running_var`.
    ///
    /// # Errors
    /// Those of `tensor`; when it gives another number of values than the shape has, or one that is not finite.
    pub fn from_tensors(variant: InceptionVariant, tensor: &mut GetTensor) -> Result<Self> {
        let mut load = Loader { tensor, weights: vec![] };
        let average = match variant {
            InceptionVariant::Fid => blocks::Average::OfPixels,
            InceptionVariant::Torchvision => blocks::Average::WithPadding,
        };
        let last = match variant {
            InceptionVariant::Fid => PoolOfE::Maximum,
            InceptionVariant::Torchvision => PoolOfE::Average(average),
        };
        Ok(Self {
            variant,
            stem: [
                load.conv("Conv2d_1a_3x3", [3, 32], [3, 3], 2, [0, 0])?,
                load.conv("Conv2d_2a_3x3", [32, 32], [3, 3], 1, [0, 0])?,
                load.conv("Conv2d_2b_3x3", [32, 64], [3, 3], 1, [1, 1])?,
                load.conv("Conv2d_3b_1x1", [64, 80], [1, 1], 1, [0, 0])?,
                load.conv("Conv2d_4a_3x3", [80, 192], [3, 3], 1, [0, 0])?,
            ],
            a: [
                BlockA::new(&mut load, "Mixed_5b", 192, 32, average)?,
                BlockA::new(&mut load, "Mixed_5c", 256, 64, average)?,
                BlockA::new(&mut load, "Mixed_5d", 288, 64, average)?,
            ],
            b: BlockB::new(&mut load, "Mixed_6a", 288)?,
            c: [
                BlockC::new(&mut load, "Mixed_6b", 128, average)?,
                BlockC::new(&mut load, "Mixed_6c", 160, average)?,
                BlockC::new(&mut load, "Mixed_6d", 160, average)?,
                BlockC::new(&mut load, "Mixed_6e", 192, average)?,
            ],
            d: BlockD::new(&mut load, "Mixed_7a", 768)?,
            e: [
                BlockE::new(&mut load, "Mixed_7b", 1280, PoolOfE::Average(average))?,
                BlockE::new(&mut load, "Mixed_7c", 2048, last)?,
            ],
            weights: load.weights,
        })
    }

    /// The features `[n, 2048]` of images `[n, 3, 299, 299]` with pixels from -1 to 1.
    fn forward(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        let [first, second, third, fourth, fifth] = &self.stem;
        let x = max_pool(&third.forward(&second.forward(&first.forward(images)?)?)?)?;
        let mut x = max_pool(&fifth.forward(&fourth.forward(&x)?)?)?;
        for block in &self.a {
            x = block.forward(&x)?;
        }
        x = self.b.forward(&x)?;
        for block in &self.c {
            x = block.forward(&x)?;
        }
        x = self.d.forward(&x)?;
        for block in &self.e {
            x = block.forward(&x)?;
        }
        x.flatten_from(2)?.mean(2)
    }
}

impl FeatureNetwork for InceptionV3 {
    fn name(&self) -> &str {
        match self.variant {
            InceptionVariant::Fid => "InceptionV3 of the FID",
            InceptionVariant::Torchvision => "InceptionV3 of torchvision",
        }
    }

    fn dim(&self) -> usize {
        FEATURES
    }

    fn batch_size(&self) -> usize {
        64
    }

    fn features(&self, images: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let (n, c, h, w) = images.dims4()?;
        if !matches!(c, 1 | 3) {
            return Err(Error::Unfit(format!("Inception sees grey and coloured images, and these have {c} channels")));
        }
        let _prepared = PreparedWeights::new(&self.weights);
        let features = predict(n, &Device::Cpu, |part| -> candle_core::Result<Tensor> {
            let mut features = vec![];
            for i in part {
                let pixels = images.get(i)?.flatten_all()?.to_vec1::<f32>()?;
                let planes: Vec<Vec<f32>> =
                    pixels.chunks_exact(h * w).map(|plane| resize(plane, [h, w], SIDE)).collect();
                let coloured: Vec<f32> = (0..3).flat_map(|channel| &planes[channel.min(c - 1)]).copied().collect();
                let image = Tensor::from_vec(coloured, (1, 3, SIDE, SIDE), &Device::Cpu)?.affine(2.0, -1.0)?;
                features.push(self.forward(&image)?);
            }
            Tensor::cat(&features, 0)
        })?;
        Ok((features, None))
    }
}
