//! The pictures of an evaluation.

use std::path::Path;

use kakusan::data::ImageSet;
use kakusan::eval::{Embedding, Evaluation, Evaluator, Pixels};
use kakusan::pipeline::{Result, write_whole};
use kakusan::report::pictures::{Block, Images, figure, grid};

pub(super) const SAMPLES: &str = "eval-samples.png";
pub(super) const NEIGHBOURS: &str = "eval-neighbours.png";
/// Samples that are shown.
const SHOWN: usize = 64;
/// Samples that are shown beside their nearest images, and how many of these.
const ROWS: usize = 10;
const NEAREST: usize = 5;

/// Draws some of the samples, and beside their nearest images those that are the nearest to any: if something was
/// memorised, it is there. Returns the second picture, if the images can be shown.
pub(super) fn write(
    dir: &Path,
    evaluation: &Evaluation,
    evaluator: &Evaluator,
    pixels: &Pixels,
    embedding: &Embedding,
    reference: &ImageSet,
) -> Result<Option<Vec<u8>>> {
    let [channels, height, width] = pixels.shape();
    if !matches!(channels, 1 | 3) {
        return Ok(None);
    }
    let about = [("model", evaluation.model.clone()), ("images", evaluation.samples.images.to_string())];
    let images = |pixels| Images { pixels, channels, height, width };
    let first = pixels.pixels_f32(&(0..pixels.len().min(SHOWN)).collect::<Vec<_>>());
    let scale = if width <= 64 { 3 } else { 1 };
    write_whole(&dir.join(SAMPLES), &grid(images(&first), 8, scale, &about)?)?;

    let neighbours = evaluator.nearest(embedding, NEAREST)?;
    let distance = |i: usize| neighbours[i].first().map_or(f64::INFINITY, |nearest| nearest.distance);
    let mut order: Vec<usize> = (0..neighbours.len()).collect();
    order.sort_by(|&i, &j| distance(i).total_cmp(&distance(j)));
    order.truncate(ROWS);
    let of_rows: Vec<usize> = order.iter().flat_map(|&i| neighbours[i].iter().map(|nearest| nearest.index)).collect();
    let (left, right) = (pixels.pixels_f32(&order), reference.pixels_f32(&of_rows)?);
    let columns = neighbours.first().map_or(1, Vec::len);
    let block = |title, pixels, columns, row_labels| Block {
        title,
        images: images(pixels),
        columns,
        column_labels: vec![],
        row_labels,
    };
    let labels = order.iter().map(|&i| format!("{:.2}", distance(i))).collect();
    let blocks = [block("samples", &left, 1, labels), block("nearest images of the data", &right, columns, vec![])];
    let title = "The samples that are nearest to an image of the data";
    let picture = figure(title, &blocks, &about)?;
    write_whole(&dir.join(NEIGHBOURS), &picture)?;
    Ok(Some(picture))
}
