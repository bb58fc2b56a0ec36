//! A factor and a summand for every channel of every image: how a network may be told of the timestep.

use candle_core::{Result, bail};
use rayon::prelude::*;

use crate::kernels::cpu::buffer::Buffer;
use crate::kernels::cpu::denormals::FlushDenormals;
use crate::kernels::cpu::host::grain_of;
use crate::kernels::reference as compose;
use crate::network::{Data, Dims, Features};

impl Features {
    /// `x * (1 + scale) + shift` at every pixel, `vector` `[b, 2c, 1, 1]` holding first the scales and then the shifts, as
    /// diffusers' `ResnetBlock2D` does under `time_embedding_norm="scale_shift"` (Dhariwal and Nichol 2021, "AdaGN").
    ///
    /// # Errors
    /// A vector of another batch or number of channels, or of another network.
    pub fn scale_shift(&self, vector: &Self) -> Result<Self> {
        let dims @ Dims { b, c, .. } = self.sizes();
        if vector.dims() != [b, 2 * c, 1, 1] {
            let (got, twice) = (vector.dims(), 2 * c);
            bail!("scale_shift: features {:?} want a vector [{b}, {twice}, 1, 1], got {got:?}", self.dims())
        }
        let (x, v) = match (self.data(), vector.data()) {
            (Data::Host(x), Data::Host(v)) if std::sync::Arc::ptr_eq(&x.tape, &v.tape) => (x, v),
            (Data::Other(x), Data::Other(v)) => return Self::other(compose::scale_shift(x, v)?),
            _ => bail!("scale_shift: the features are of different networks"),
        };
        let image = dims.pixels() * c;
        let mut y = Buffer::new(x.floats.len())?;
        forward(&x.floats, &v.floats, [image, c], &mut y);
        let (x_id, v_id) = (x.id, v.id);
        let id = (x_id.is_some() || v_id.is_some()).then(|| {
            let (floats, vector) = (x.floats.clone(), v.floats.clone());
            x.tape.record(Box::new(move |grad, gradients| {
                let [mut dx, mut dv] = [Buffer::new(floats.len())?, Buffer::new(vector.len())?];
                backward(&floats, &vector, [image, c], &grad, [&mut dx, &mut dv]);
                for (id, grad) in [(x_id, dx), (v_id, dv)] {
                    if let Some(id) = id {
                        gradients.add(id, grad.into())?;
                    }
                }
                Ok(())
            }))
        });
        Ok(Self::host(dims, y, &x.tape, id))
    }
}

fn forward(x: &[f32], vector: &[f32], [image, c]: [usize; 2], y: &mut [f32]) {
    let images = y.par_chunks_mut(image).zip(x.par_chunks(image)).zip(vector.par_chunks(2 * c));
    images.with_min_len(grain_of(image)).for_each(|((y, x), vector)| {
        let _flush = FlushDenormals::new();
        let (scale, shift) = vector.split_at(c);
        for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            for (i, y) in y.iter_mut().enumerate() {
                *y = x[i] * (1.0 + scale[i]) + shift[i];
            }
        }
    });
}

/// The gradients of the features and of the vector.
fn backward(x: &[f32], vector: &[f32], [image, c]: [usize; 2], grad: &[f32], [dx, dv]: [&mut [f32]; 2]) {
    let inputs = x.par_chunks(image).zip(grad.par_chunks(image)).zip(vector.par_chunks(2 * c));
    let images = dx.par_chunks_mut(image).zip(dv.par_chunks_mut(2 * c)).zip(inputs);
    images.with_min_len(grain_of(image)).for_each(|((dx, dv), ((x, grad), vector))| {
        let _flush = FlushDenormals::new();
        dv.fill(0.0);
        // sums of a stretch of pixels at a time, which keeps them exact
        let mut sums = vec![0.0; 2 * c];
        let stretch = 64 * c;
        for ((dx, x), grad) in dx.chunks_mut(stretch).zip(x.chunks(stretch)).zip(grad.chunks(stretch)) {
            sums.fill(0.0);
            let (of_scale, of_shift) = sums.split_at_mut(c);
            for ((dx, x), grad) in dx.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(grad.chunks_exact(c)) {
                for i in 0..c {
                    dx[i] = grad[i] * (1.0 + vector[i]);
                    of_scale[i] += grad[i] * x[i];
                    of_shift[i] += grad[i];
                }
            }
            dv.iter_mut().zip(&sums).for_each(|(dv, sum)| *dv += sum);
        }
    });
}
