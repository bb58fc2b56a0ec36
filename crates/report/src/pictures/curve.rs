use plotters::backend::BitMapBackend;
use plotters::coord::ranged1d::Ranged;
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::IntoDrawingArea;
use plotters::element::{Circle, PathElement, Rectangle};
use plotters::style::{RGBColor, ShapeStyle, WHITE};

use super::canvas::{Anchor, Canvas, HEADING, INK, LABEL, PALE, cap_height};
use super::{About, PictureError};

const WIDTH: usize = 900;
const HEIGHT: usize = 540;
/// The edges of the plot.
const LEFT: usize = 98;
const RIGHT: usize = 860;
const TOP: usize = 28;
const BOTTOM: usize = 456;
/// The upper end of the tutorial's y axis.
const HIGHEST: f64 = 0.1;
/// Horizontal lines in the plot, not counting the lowest.
const LINES_ACROSS: usize = 5;
/// Lines are drawn at this multiple of the size and then shrunk, which smooths them.
const FINE: usize = 3;
/// Up to this many losses, each is marked.
const FEW: usize = 60;

const STEPS: RGBColor = RGBColor(140, 182, 217);
const AVERAGE: RGBColor = RGBColor(20, 70, 130);
const VALIDATION: RGBColor = RGBColor(200, 90, 20);
const LINES: RGBColor = RGBColor(228, 228, 228);
const EDGE: RGBColor = RGBColor(60, 60, 60);

/// The steps between which an epoch lies, and its average loss.
type Average = (f64, f64, f64);

/// Draws the loss of every optimiser step, over it the average of each epoch, and the loss on held-out images at the
/// steps where it was measured, as PNG. The y axis goes from 0 to
/// 0.1, or as far as the averages go. Larger losses are drawn at its top; non-finite ones are omitted.
///
/// # Errors
/// When the drawing library fails.
pub fn loss_curve(
    losses: &[f32],
    steps_per_epoch: usize,
    validated: &[(usize, f32)],
    about: About,
) -> Result<Vec<u8>, PictureError> {
    let validated: Vec<(f64, f64)> = validated
        .iter()
        .filter(|(_, loss)| loss.is_finite())
        .map(|&(step, loss)| (step as f64, f64::from(loss)))
        .collect();
    let points = thin_out(losses, 2 * (RIGHT - LEFT));
    let averages = averages(losses, steps_per_epoch);
    let (last, highest) = (losses.len().max(10) as f64, highest(&averages));

    let ticks = RangedCoordf64::from(0.0..last).key_points(9);
    let mut fine = Canvas::new(WIDTH * FINE, HEIGHT * FINE)?;
    draw(&mut fine, &ticks, &points, &averages, &validated, [last, highest]).map_err(PictureError::Drawing)?;

    let mut canvas = shrink(&fine)?;
    for step in ticks {
        let at = (x(step, last).round() as usize, BOTTOM + 13 + cap_height(LABEL));
        canvas.text(&step.to_string(), LABEL, PALE, at, Anchor::Centre)?;
    }
    for loss in losses_marked(highest) {
        let at = (LEFT - 13, y(loss, highest).round() as usize + cap_height(LABEL) / 2);
        let text = if highest < 1e4 { format!("{loss:.2}") } else { format!("{loss:.0e}") };
        canvas.text(&text, LABEL, PALE, at, Anchor::Right)?;
    }
    canvas.text("step", HEADING, INK, ((LEFT + RIGHT) / 2, HEIGHT - 28), Anchor::Centre)?;
    canvas.text("loss", HEADING, INK, (36, (TOP + BOTTOM) / 2), Anchor::Upwards)?;
    for (i, (name, ..)) in lines(&validated).iter().enumerate() {
        canvas.text(name, LABEL, INK, (legend(i).0 + 42, legend(i).1 + cap_height(LABEL) / 2), Anchor::Left)?;
    }
    canvas.png(about)
}

/// The upper end of the y axis: 0.1, or the smallest of 0.2, 0.5, 1, 2 and so on that is above all averages.
fn highest(averages: &[Average]) -> f64 {
    let most = averages.iter().map(|&(.., mean)| mean).fold(HIGHEST, f64::max);
    let mut rounds = (-1..50).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
    rounds.find(|&round| round >= most).unwrap_or(most)
}

/// The tick values of the y axis.
fn losses_marked(highest: f64) -> impl Iterator<Item = f64> {
    (0..=LINES_ACROSS).map(move |i| highest * i as f64 / LINES_ACROSS as f64)
}

/// The lines of the plot: what each shows, its colour and its width.
fn lines(validated: &[(f64, f64)]) -> Vec<(&'static str, RGBColor, u32)> {
    let mut lines = vec![("each step", STEPS, 4), ("average of the epoch", AVERAGE, 9)];
    if !validated.is_empty() {
        lines.push(("held-out images", VALIDATION, 6));
    }
    lines
}

/// The position of the line sample in the legend's row `i`.
fn legend(i: usize) -> (usize, usize) {
    (RIGHT - 230, TOP + 26 + i * 26)
}

/// The average of each epoch.
fn averages(losses: &[f32], steps_per_epoch: usize) -> Vec<Average> {
    let steps_per_epoch = steps_per_epoch.max(1);
    let epochs = losses.chunks(steps_per_epoch).enumerate().map(|(epoch, losses)| {
        let finite = losses.iter().filter(|loss| loss.is_finite());
        let mean = finite.clone().map(|&loss| f64::from(loss)).sum::<f64>() / finite.count() as f64;
        let from = (epoch * steps_per_epoch) as f64;
        (from, from + losses.len() as f64, mean)
    });
    epochs.filter(|(.., mean)| mean.is_finite()).collect()
}

/// Losses with their steps from 1. Of long runs, only the lowest and the highest loss of each range of steps are kept,
/// which looks the same.
fn thin_out(losses: &[f32], most: usize) -> Vec<(f64, f64)> {
    let finite: Vec<_> = losses.iter().enumerate().filter(|(_, loss)| loss.is_finite()).collect();
    let mut points = vec![];
    for stretch in finite.chunks((2 * finite.len()).div_ceil(most).max(1)) {
        let by_loss = |a: &&(usize, &f32), b: &&(usize, &f32)| a.1.total_cmp(b.1);
        let ends = stretch.iter().min_by(by_loss).zip(stretch.iter().max_by(by_loss));
        if let Some((&low, &high)) = ends {
            points.extend(if low.0 <= high.0 { [low, high] } else { [high, low] });
        }
    }
    points.dedup_by_key(|point| point.0);
    points.into_iter().map(|(i, &loss)| (i as f64 + 1.0, f64::from(loss))).collect()
}

/// Draws everything except text.
fn draw(
    fine: &mut Canvas,
    ticks: &[f64],
    points: &[(f64, f64)],
    averages: &[Average],
    validated: &[(f64, f64)],
    [last, highest]: [f64; 2],
) -> Result<(), String> {
    let size = (fine.width as u32, fine.height as u32);
    let area = BitMapBackend::with_buffer(&mut fine.bytes, size).into_drawing_area();
    let pixel = |(x, y): (f64, f64)| ((x * FINE as f64).round() as i32, (y * FINE as f64).round() as i32);
    let line = |from, to, color: RGBColor, width: u32| {
        let style = ShapeStyle::from(color).stroke_width(width);
        area.draw(&PathElement::new([pixel(from), pixel(to)], style)).map_err(|e| e.to_string())
    };
    let dot = |at, color: RGBColor, radius: u32| {
        area.draw(&Circle::new(pixel(at), radius, ShapeStyle::from(color).filled())).map_err(|e| e.to_string())
    };
    let (left, right, top, bottom) = (LEFT as f64, RIGHT as f64, TOP as f64, BOTTOM as f64);
    let (x, y) = (|step| x(step, last), |loss| y(loss, highest));

    for &step in ticks {
        line((x(step), top), (x(step), bottom), LINES, 3)?;
        line((x(step), bottom), (x(step), bottom + 6.0), EDGE, 3)?;
    }
    for loss in losses_marked(highest) {
        line((left, y(loss)), (right, y(loss)), LINES, 3)?;
        line((left - 6.0, y(loss)), (left, y(loss)), EDGE, 3)?;
    }
    for pair in points.windows(2) {
        line((x(pair[0].0), y(pair[0].1)), (x(pair[1].0), y(pair[1].1)), STEPS, 4)?;
    }
    for &(step, loss) in if points.len() <= FEW { points } else { &[] } {
        dot((x(step), y(loss)), STEPS, 10)?;
    }
    for &(from, to, loss) in averages {
        line((x(from), y(loss)), (x(to), y(loss)), AVERAGE, 9)?;
    }
    for pair in validated.windows(2) {
        line((x(pair[0].0), y(pair[0].1)), (x(pair[1].0), y(pair[1].1)), VALIDATION, 6)?;
    }
    for &(step, loss) in validated {
        dot((x(step), y(loss)), VALIDATION, 12)?;
    }
    let corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)];
    for side in corners.windows(2) {
        line(side[0], side[1], EDGE, 3)?;
    }
    let (from, to) =
        ((legend(0).0 as f64 - 16.0, top + 12.0), (right - 14.0, legend(lines(validated).len() - 1).1 as f64 + 18.0));
    for style in [ShapeStyle::from(WHITE).filled(), ShapeStyle::from(LINES).stroke_width(3)] {
        area.draw(&Rectangle::new([pixel(from), pixel(to)], style)).map_err(|e| e.to_string())?;
    }
    for (i, (_, color, width)) in lines(validated).into_iter().enumerate() {
        let (x, y) = legend(i);
        line((x as f64, y as f64), (x as f64 + 30.0, y as f64), color, width)?;
    }
    area.present().map_err(|e| e.to_string())
}

/// The x coordinate of a step.
fn x(step: f64, last: f64) -> f64 {
    LEFT as f64 + (RIGHT - LEFT) as f64 * step / last
}

/// The y coordinate of a loss.
fn y(loss: f64, highest: f64) -> f64 {
    BOTTOM as f64 - (BOTTOM - TOP) as f64 * loss.clamp(0.0, highest) / highest
}

/// Averages squares of `FINE` x `FINE` pixels. Most of the picture is white and is skipped, range by range.
fn shrink(fine: &Canvas) -> Result<Canvas, PictureError> {
    const STRETCH: usize = 10;
    const PAPER: [u8; 3 * STRETCH * FINE] = [255; 3 * STRETCH * FINE];
    let mut canvas = Canvas::new(fine.width / FINE, fine.height / FINE)?;
    let rows = fine.bytes.chunks_exact(fine.width * 3 * FINE);
    for (row, fine_rows) in canvas.bytes.chunks_exact_mut(canvas.width * 3).zip(rows) {
        for (i, stretch) in row.chunks_mut(3 * STRETCH).enumerate() {
            let of_row = |row: usize| {
                let begin = (row * fine.width + i * STRETCH * FINE) * 3;
                &fine_rows[begin..begin + stretch.len() * FINE]
            };
            if (0..FINE).all(|row| of_row(row) == &PAPER[..stretch.len() * FINE]) {
                continue; // white, as in a new canvas
            }
            let mut sums = vec![0u16; stretch.len()];
            for row in 0..FINE {
                for (square, pixels) in of_row(row).chunks_exact(3 * FINE).enumerate() {
                    for (i, &value) in pixels.iter().enumerate() {
                        sums[3 * square + i % 3] += u16::from(value);
                    }
                }
            }
            stretch.iter_mut().zip(sums).for_each(|(value, sum)| *value = (sum / (FINE * FINE) as u16) as u8);
        }
    }
    Ok(canvas)
}

#[cfg(test)]
mod tests {
    use super::super::canvas::tests::{Decoded, decode};
    use super::*;

    /// The rows that contain a colour, left of the legend.
    fn rows(picture: &Decoded, color: [u8; 3]) -> Vec<usize> {
        (0..picture.height).filter(|&y| (105..600).any(|x| picture.at(x, y) == color)).collect()
    }

    const AVERAGE: [u8; 3] = [20, 70, 130];

    #[test]
    fn the_curve_is_where_its_losses_are() {
        for (losses, y) in [(vec![0.05; 700], 242), (vec![0.0; 700], 456), (vec![9.0; 700], 71)] {
            let rows = rows(&decode(&loss_curve(&losses, 100, &[], &[]).unwrap()), AVERAGE);
            let (first, last) = (rows[0], rows[rows.len() - 1]);
            assert!(first + 3 >= y && last <= y + 3, "{} at {first}..{last}, not {y}", losses[0]);
        }
        let two = [vec![0.02; 50], vec![0.08; 50]].concat();
        let picture = decode(&loss_curve(&two, 50, &[], &[]).unwrap());
        let middle = |x: usize| (0..picture.height).find(|&y| picture.at(x, y) == AVERAGE).unwrap();
        assert!(middle(300) > 360 && middle(600) < 120, "each epoch has its own average");
    }

    #[test]
    fn the_loss_of_held_out_images_is_where_it_was_measured() {
        let picture = decode(&loss_curve(&[0.08; 100], 50, &[(50, 0.05), (100, 0.02)], &[]).unwrap());
        let row = |x: usize| (0..picture.height).find(|&y| picture.at(x, y) == [200, 90, 20]).unwrap();
        let (left, right) = (x(50.0, 100.0).round() as usize, x(100.0, 100.0).round() as usize);
        assert!((row(left + 2) as f64 - y(0.05, 0.1)).abs() < 6.0, "{}", row(left + 2));
        assert!((row(right - 3) as f64 - y(0.02, 0.1)).abs() < 6.0, "{}", row(right - 3));
    }

    #[test]
    fn the_axis_goes_as_far_as_the_averages() {
        let upto = |mean| highest(&[(0.0, 1.0, 0.03), (1.0, 2.0, mean)]);
        assert_eq!([0.0, 0.07, 0.1, 0.11, 0.3, 0.92, 7.0, 1e4].map(upto), [0.1, 0.1, 0.1, 0.2, 0.5, 1.0, 10.0, 1e4]);
        assert_eq!(highest(&[]), 0.1);
    }

    #[test]
    fn a_curve_of_anything_is_drawn() {
        let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        let long: Vec<f32> =
            (0..100_000).map(|i| if i % 97 == 0 { f32::NAN } else { (i % 89) as f32 / 1000.0 }).collect();
        for losses in [&[][..], &[0.03], &bad, &[f32::MAX, f32::MAX], &[f32::MIN], &long] {
            let picture = decode(&loss_curve(losses, 145, &[], &[("seed", "0".into())]).unwrap());
            assert_eq!((picture.width, picture.height), (900, 540));
            assert!(picture.rgb.iter().filter(|p| p[0] < 100).count() > 1000, "axes and letters");
            assert_eq!(picture.texts.len(), 1);
        }
        assert!(rows(&decode(&loss_curve(&bad, 0, &[], &[]).unwrap()), AVERAGE).is_empty());
        assert!(!rows(&decode(&loss_curve(&[0.03], usize::MAX, &[], &[]).unwrap()), AVERAGE).is_empty());
    }

    #[test]
    fn thinning_keeps_every_peak_and_the_order() {
        let mut losses = vec![0.02; 10_000];
        (losses[17], losses[5_000], losses[9_999], losses[30]) = (0.09, 0.001, 0.07, f32::NAN);
        let points = thin_out(&losses, 1000);
        assert!(points.len() <= 1000 && points.is_sorted_by(|a, b| a.0 < b.0));
        for step in [17, 5_000, 9_999] {
            assert!(points.contains(&(step as f64 + 1.0, f64::from(losses[step]))), "{step}");
        }
        assert_eq!(thin_out(&losses[..20], 1000).len(), 20); // short runs are kept in full
        assert_eq!(thin_out(&[], 1000), []);
    }

    #[test]
    fn averages_are_over_what_is_finite() {
        let losses = [1.0, 3.0, f32::NAN, 5.0, f32::NAN, f32::INFINITY, 2.0];
        assert_eq!(averages(&losses, 2), [(0.0, 2.0, 2.0), (2.0, 4.0, 5.0), (6.0, 7.0, 2.0)]);
        assert_eq!(averages(&losses[..1], 0), [(0.0, 1.0, 1.0)]);
    }
}
