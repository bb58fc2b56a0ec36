//! The pictures that a request brings.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kakusan::candle::{Device, Tensor};
use kakusan::data::{ReadPicture, decode_mask, decode_picture};
use kakusan::pipeline::{DDPMPipeline, Result, in_turns};

use crate::refusal::Refusal;
use crate::request::Picture;

/// A picture in the form of the model's images.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    /// Pixels in 0..1 `[1, c, h, w]`.
    unit: Tensor,
    /// Where it is repainted: 1, elsewhere 0 `[1, 1, h, w]`.
    mask: Option<Tensor>,
}

impl Given {
    /// Reads the pictures of a request, within a limit of pixels.
    pub(crate) fn read(
        init: &Picture,
        mask: Option<&Picture>,
        shape: [usize; 3],
        most_pixels: u64,
    ) -> std::result::Result<Self, Refusal> {
        let refused = |field: &'static str| move |e: &dyn std::fmt::Display| Refusal::field(field, e.to_string());
        let picture =
            decode_picture("init", bytes("init", init)?, shape, most_pixels).map_err(|e| refused("init")(&e))?;
        let [channels, height, width] = shape;
        let tensor = |pixels: Vec<f32>, channels: usize| {
            Tensor::from_vec(pixels, (1, channels, height, width), &Device::Cpu).map_err(|e| refused("init")(&e))
        };
        let unit = tensor(picture.pixels.clone(), channels)?;
        let mask = mask.map(|mask| white(mask, &picture, [height, width], most_pixels)).transpose()?;
        Ok(Self { unit, mask: mask.map(|mask| tensor(mask, 1)).transpose()? })
    }

    /// The picture as the model was trained on such, so many times `[n, c, h, w]`.
    pub(crate) fn images(&self, pipeline: &DDPMPipeline, count: usize) -> Result<Tensor> {
        let unit = in_turns(&self.unit, count)?.to_device(pipeline.weights().device())?;
        pipeline.preprocess(&unit)
    }

    pub(crate) fn mask(&self) -> Option<&Tensor> {
        self.mask.as_ref()
    }

    /// Where the picture is kept: 1, elsewhere 0.
    pub(crate) fn outside(&self) -> Result<Tensor> {
        Ok(match &self.mask {
            Some(mask) => mask.affine(-1.0, 1.0)?,
            None => self.unit.narrow(1, 0, 1)?.zeros_like()?,
        })
    }

    /// Images with pixels in 0..1, in which the part that is not repainted is exactly that of the picture.
    pub(crate) fn kept(&self, images: &Tensor) -> Result<Tensor> {
        let Some(mask) = &self.mask else { return Ok(images.clone()) };
        let repainted = mask.ge(0.5f64)?.broadcast_as(images.shape())?.contiguous()?;
        let unit = self.unit.broadcast_as(images.shape())?.contiguous()?;
        Ok(repainted.where_cond(images, &unit)?)
    }
}

fn bytes(field: &str, picture: &Picture) -> std::result::Result<Vec<u8>, Refusal> {
    let text = match picture.png.split_once(";base64,") {
        Some((head, rest)) if head.starts_with("data:") => rest,
        _ => &picture.png,
    };
    STANDARD.decode(text.trim()).map_err(|e| Refusal::field(field, format!("{field}.png is not base64: {e}")))
}

/// A mask, 1 where it is white, elsewhere 0.
fn white(
    mask: &Picture,
    picture: &ReadPicture,
    size: [usize; 2],
    most_pixels: u64,
) -> std::result::Result<Vec<f32>, Refusal> {
    let white = decode_mask("mask", bytes("mask", mask)?, size, picture, most_pixels)
        .map_err(|e| Refusal::field("mask", e.to_string()))?;
    if !white.contains(&true) {
        return Err(Refusal::field(
            "mask",
            "the mask is black everywhere, so that nothing would be repainted: paint white what is to change",
        ));
    }
    Ok(white.into_iter().map(|white| if white { 1.0 } else { 0.0 }).collect())
}
