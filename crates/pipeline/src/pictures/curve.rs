use plotters::chart::ChartBuilder;
use plotters::element::{PathElement, Rectangle};
use plotters::prelude::Color;
use plotters::series::LineSeries;
use plotters::style::{RGBColor, ShapeStyle};

use super::canvas::{Canvas, INK, PALE, PAPER, text};
use super::{About, PictureError};

const WIDTH: usize = 900;
const HEIGHT: usize = 540;
/// The tutorial's y axis.
const TOP: f64 = 0.1;
const BLUE: RGBColor = RGBColor(31, 119, 180);
const ORANGE: RGBColor = RGBColor(214, 90, 14);

/// Draws the loss of every optimiser step, and over it the average of each epoch, as PNG. The y axis goes from 0 to
/// 0.1; larger losses run along its top, what is not finite is left out.
///
/// # Errors
/// When the drawing library fails.
pub fn loss_curve(losses: &[f32], steps_per_epoch: usize, about: About) -> Result<Vec<u8>, PictureError> {
    let point = |(i, loss): (usize, &f32)| (i as f64 + 1.0, f64::from(*loss).clamp(0.0, TOP));
    let points = losses.iter().enumerate().filter(|(_, loss)| loss.is_finite()).map(point);
    let steps_per_epoch = steps_per_epoch.max(1);
    let averages = losses.chunks(steps_per_epoch).enumerate().map(|(epoch, losses)| {
        let mean = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64;
        let from = (epoch * steps_per_epoch) as f64;
        let height = mean.clamp(0.0, TOP);
        vec![(from + 1.0, height), (from + losses.len() as f64, height)]
    });

    let mut canvas = Canvas::new(WIDTH, HEIGHT)?;
    canvas.draw(|area| {
        let words = |e: &dyn std::fmt::Display| e.to_string();
        let mut chart = ChartBuilder::on(&area)
            .caption("Loss of each step", text(22.0, INK))
            .margin(18)
            .x_label_area_size(52)
            .y_label_area_size(72)
            .build_cartesian_2d(0.0..(losses.len().max(10) as f64), 0.0..TOP)
            .map_err(|e| words(&e))?;
        chart
            .configure_mesh()
            .x_desc("step")
            .y_desc("mean squared error")
            .axis_desc_style(text(17.0, INK))
            .label_style(text(15.0, PALE))
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.2}"))
            .y_labels(6)
            .light_line_style(PAPER)
            .bold_line_style(RGBColor(225, 225, 225))
            .draw()
            .map_err(|e| words(&e))?;
        let by_step = LineSeries::new(points, BLUE.mix(0.7));
        let sample = |color: RGBColor| {
            move |(x, y): (i32, i32)| Rectangle::new([(x, y - 2), (x + 18, y + 1)], ShapeStyle::from(color).filled())
        };
        chart.draw_series(by_step).map_err(|e| words(&e))?.label("each step").legend(sample(BLUE));
        let style = ShapeStyle::from(ORANGE).stroke_width(3);
        let lines = averages.filter(|line| line[0].1.is_finite()).map(|line| PathElement::new(line, style));
        let by_epoch = chart.draw_series(lines).map_err(|e| words(&e))?;
        by_epoch.label("average of the epoch").legend(sample(ORANGE));
        chart
            .configure_series_labels()
            .label_font(text(15.0, INK))
            .background_style(PAPER)
            .border_style(RGBColor(200, 200, 200))
            .position(plotters::chart::SeriesLabelPosition::UpperRight)
            .draw()
            .map_err(|e| words(&e))?;
        area.present().map_err(|e| words(&e))
    })?;
    canvas.png(about)
}
