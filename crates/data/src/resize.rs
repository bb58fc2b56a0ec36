//! Resizes exactly as Pillow's `Image.resize(size, BILINEAR)`, which torchvision's `Resize` calls for pictures.
//!
//! Each new pixel is a mean of the old pixels around its position, weighted by a triangle. When the picture shrinks,
//! the triangle widens so that every old pixel counts (antialiasing). Rows and columns are resized one after the other,
//! each rounded to bytes; the weights are multiples of 2^-22. In 16-bit pictures, each channel is resized as Pillow
//! resizes a picture of the mode `I;16`, with f64 weights.

use crate::raster::{Raster, Sample};

/// Fraction bits of a weight: 32, minus 8 for the pixel and 2 as a guard against overflow of the sum.
const BITS: u32 = 22;

/// The weights of one new pixel, and the index of the first old pixel that they apply to.
struct Taps<W> {
    first: usize,
    weights: Vec<W>,
}

/// The arithmetic by which old pixels of a depth are summed to a new one.
pub(crate) trait Weighed: Sample {
    /// The type of a weight, and of a sum of weighted pixels.
    type Number: Copy;
    /// The initial value of a sum, so that the result is rounded to nearest.
    const HALF: Self::Number;

    /// The weight for a share from 0 to 1.
    fn weight(share: f64) -> Self::Number;

    fn add(sum: &mut Self::Number, pixel: Self, weight: Self::Number);

    fn end(sum: Self::Number) -> Self;
}

impl Weighed for u8 {
    type Number = i32;
    const HALF: i32 = 1 << (BITS - 1);

    fn weight(share: f64) -> i32 {
        (share * f64::from(1 << BITS) + 0.5) as i32
    }

    fn add(sum: &mut i32, pixel: u8, weight: i32) {
        *sum += i32::from(pixel) * weight;
    }

    fn end(sum: i32) -> u8 {
        (sum >> BITS).clamp(0, 255) as u8
    }
}

impl Weighed for u16 {
    type Number = f64;
    const HALF: f64 = 0.0; // added last, as in Pillow: the order of additions matters in f64

    fn weight(share: f64) -> f64 {
        share
    }

    fn add(sum: &mut f64, pixel: u16, weight: f64) {
        *sum += f64::from(pixel) * weight;
    }

    fn end(sum: f64) -> u16 {
        (sum + 0.5).floor() as u16
    }
}

/// Resizes a picture.
pub(crate) fn resize<T: Weighed>(raster: Raster<T>, width: usize, height: usize) -> Raster<T> {
    let lost = (raster.width as i64 - width as i64, raster.height as i64 - height as i64);
    // The order of the passes affects the last bit. Pillow 13 begins with the columns if the height shrinks by more
    // than twice what the width does.
    if lost.1 > 0 && lost.1 > 2 * lost.0 {
        rows(columns(raster, height), width)
    } else {
        columns(rows(raster, width), height)
    }
}

/// `[h, w, c]` -> `[h, w', c]`
fn rows<T: Weighed>(raster: Raster<T>, width: usize) -> Raster<T> {
    if width == raster.width {
        return raster;
    }
    let taps = taps::<T>(raster.width, width);
    let mut pixels = Vec::with_capacity(raster.height * width * raster.channels);
    for row in raster.pixels.chunks_exact(raster.width * raster.channels) {
        match raster.channels {
            1 => row_of::<T, 1>(row, &taps, &mut pixels),
            _ => row_of::<T, 3>(row, &taps, &mut pixels),
        }
    }
    Raster { width, pixels, ..raster }
}

/// `[w, c]` -> `[w', c]`
fn row_of<T: Weighed, const C: usize>(row: &[T], taps: &[Taps<T::Number>], out: &mut Vec<T>) {
    let pixels = row.as_chunks::<C>().0;
    for Taps { first, weights } in taps {
        let mut sums = [T::HALF; C];
        for (pixel, &weight) in pixels[*first..].iter().zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                T::add(sum, value, weight);
            }
        }
        out.extend(sums.map(T::end));
    }
}

/// `[h, w, c]` -> `[h', w, c]`
fn columns<T: Weighed>(raster: Raster<T>, height: usize) -> Raster<T> {
    if height == raster.height {
        return raster;
    }
    let row = raster.width * raster.channels;
    let mut pixels = Vec::with_capacity(height * row);
    let mut sums = vec![T::HALF; row];
    for Taps { first, weights } in taps::<T>(raster.height, height) {
        sums.fill(T::HALF);
        for (line, &weight) in raster.pixels[first * row..].chunks_exact(row).zip(&weights) {
            for (sum, &value) in sums.iter_mut().zip(line) {
                T::add(sum, value, weight);
            }
        }
        pixels.extend(sums.iter().map(|&sum| T::end(sum)));
    }
    Raster { height, pixels, ..raster }
}

/// The weights of each of `to` new pixels over `from` old pixels.
fn taps<T: Weighed>(from: usize, to: usize) -> Vec<Taps<T::Number>> {
    let scale = from as f64 / to as f64;
    let support = scale.max(1.0);
    let narrow = 1.0 / support;
    let of_one = |i: usize| {
        let center = (i as f64 + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(from);
        let triangle: Vec<f64> =
            (first..end).map(|x| (1.0 - ((x as f64 - center + 0.5) * narrow).abs()).max(0.0)).collect();
        let sum: f64 = triangle.iter().sum();
        Taps { first, weights: triangle.into_iter().map(|weight| T::weight(weight / sum)).collect() }
    };
    (0..to).map(of_one).collect()
}
