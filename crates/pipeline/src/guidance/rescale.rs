use candle_core::Tensor;

use crate::Result;

/// Rescales what classifier-free guidance gives, `noise_cfg`, to the standard deviation of the prediction with the
/// class, `noise_pred_text`, image by image, and mixes `guidance_rescale` of that with the rest of `noise_cfg` (Lin et
/// al. 2023, equations 15 and 16): diffusers' `rescale_noise_cfg`. Both are `[b, c, h, w]`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use kakusan_pipeline::rescale_noise_cfg;
///
/// let with_class = Tensor::new(&[[[[1f32, -1.0]]]], &Device::Cpu)?;
/// let guided = (&with_class * 3.0)?;
/// let rescaled = rescale_noise_cfg(&guided, &with_class, 0.5)?;
/// assert_eq!(rescaled.flatten_all()?.to_vec1::<f32>()?, [2.0, -2.0]);
/// # Ok::<(), kakusan_pipeline::Error>(())
/// ```
///
/// # Errors
/// When the shapes differ.
pub fn rescale_noise_cfg(noise_cfg: &Tensor, noise_pred_text: &Tensor, guidance_rescale: f64) -> Result<Tensor> {
    // the number of pixels cancels out, and with it torch's one degree of freedom less
    let deviation = |x: &Tensor| -> Result<Tensor> {
        let flat = x.flatten_from(1)?;
        Ok(flat.broadcast_sub(&flat.mean_keepdim(1)?)?.sqr()?.sum_keepdim(1)?.sqrt()?)
    };
    let factor = (deviation(noise_pred_text)? / deviation(noise_cfg)?)?;
    let factor = factor.affine(guidance_rescale, 1.0 - guidance_rescale)?;
    let per_image = [vec![factor.dim(0)?], vec![1; noise_cfg.rank().saturating_sub(1)]].concat();
    Ok(noise_cfg.broadcast_mul(&factor.reshape(per_image)?)?)
}
