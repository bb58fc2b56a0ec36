//! Resizing as Pillow's `Image.resize(size, BILINEAR)` does it, number for number: what torchvision's `Resize` calls on pictures.
//!
//! Each new pixel is the mean of the old ones around its place, weighted by a triangle. Where the picture shrinks, the triangle grows with it,
//! so that every old pixel counts (antialiasing). Rows and columns one after the other, each rounded to bytes; the weights are whole numbers of
//! 2^-22.

use crate::raster::Raster;

/// Fraction bits of a weight: 32, less 8 of the pixel and 2 against overflow of the sum.
const BITS: u32 = 22;

/// The weights of one new pixel, and the first old pixel that they belong to.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// The picture at another size.
pub(crate) fn resize(raster: Raster, width: usize, height: usize) -> Raster {
    let lost = (raster.width as i64 - width as i64, raster.height as i64 - height as i64);
    // What Pillow 13 does first shows in the last bit: it begins with the columns where the height shrinks by more than twice what the width does.
    if lost.1 > 0 && lost.1 > 2 * lost.0 {
        rows(columns(raster, height), width)
    } else {
        columns(rows(raster, width), height)
    }
}

/// `[h, w, c]` -> `[h, w', c]`
fn rows(raster: Raster, width: usize) -> Raster {
    if width == raster.width {
        return raster;
    }
    let taps = taps(raster.width, width);
    let mut pixels = Vec::with_capacity(raster.height * width * raster.channels);
    for row in raster.pixels.chunks_exact(raster.width * raster.channels) {
        match raster.channels {
            1 => row_of::<1>(row, &taps, &mut pixels),
            _ => row_of::<3>(row, &taps, &mut pixels),
        }
    }
    Raster { width, pixels, ..raster }
}

/// `[w, c]` -> `[w', c]`
fn row_of<const C: usize>(row: &[u8], taps: &[Taps], out: &mut Vec<u8>) {
    let pixels = row.as_chunks::<C>().0;
    for Taps { first, weights } in taps {
        let mut sums = [1i32 << (BITS - 1); C];
        for (pixel, &weight) in pixels[*first..].iter().zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                *sum += i32::from(value) * weight;
            }
        }
        out.extend(sums.map(to_byte));
    }
}

/// `[h, w, c]` -> `[h', w, c]`
fn columns(raster: Raster, height: usize) -> Raster {
    if height == raster.height {
        return raster;
    }
    let row = raster.width * raster.channels;
    let mut pixels = Vec::with_capacity(height * row);
    let mut sums = vec![0i32; row];
    for Taps { first, weights } in taps(raster.height, height) {
        sums.fill(1 << (BITS - 1));
        for (line, &weight) in raster.pixels[first * row..].chunks_exact(row).zip(&weights) {
            for (sum, &value) in sums.iter_mut().zip(line) {
                *sum += i32::from(value) * weight;
            }
        }
        pixels.extend(sums.iter().map(|&sum| to_byte(sum)));
    }
    Raster { height, pixels, ..raster }
}

fn to_byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// The weights of each of `to` pixels over `from`.
fn taps(from: usize, to: usize) -> Vec<Taps> {
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
        let whole = |weight: f64| (weight / sum * f64::from(1 << BITS) + 0.5) as i32;
        Taps { first, weights: triangle.into_iter().map(whole).collect() }
    };
    (0..to).map(of_one).collect()
}
