//! Tables of samples over one or two settings: `sample --grid`.

use kakusan::pipeline::{Axis, DDPMPipeline, Error, Registry, Result};
use kakusan::report::pictures::{Block, Images, figure};

use crate::classes;
use crate::edit::Given;
use crate::number::{numbers, real};

/// The longest side and the most pixels of a table, with room for its margins in a picture.
const LONGEST_SIDE: usize = 18_000;
const MOST_PIXELS: usize = 90_000_000;
/// About the distance of images in a table, and the width of a letter and height of a line between them.
const GAP: usize = 8;
const LETTER: [usize; 2] = [11, 17];

/// The sides of a table, and the picture that its images are drawn from.
pub(crate) struct Table {
    pub(crate) columns: Axis,
    pub(crate) rows: Option<Axis>,
    /// The labels of the columns and of the rows.
    labels: [Vec<String>; 2],
    pub(crate) given: Option<Given>,
}

impl Table {
    /// The table of one or two sides.
    pub(crate) fn new(
        sides: &[Side],
        given: Option<Given>,
        pipeline: &DDPMPipeline,
        registry: &Registry,
    ) -> Result<Option<Self>> {
        let axis = |side: &Side| side.axis(pipeline, registry);
        let Some((columns, rows)) = sides.split_first() else { return Ok(None) };
        let (columns, of_columns) = axis(columns)?;
        let (rows, of_rows) = rows.first().map(axis).transpose()?.unzip();
        let labels = [of_columns, of_rows.unwrap_or_default()];
        // said before the images are drawn, not after it
        let ([_, height, width], [of_columns, of_rows]) = (pipeline.sample_shape()?, &labels);
        let longest = of_columns.iter().map(|label| label.chars().count()).max().unwrap_or(0);
        let across = (width.max(longest * LETTER[0]) + GAP).saturating_mul(of_columns.len());
        let down = (height.max(LETTER[1]) + GAP).saturating_mul(of_rows.len().max(1));
        if across.max(down) > LONGEST_SIDE || across.saturating_mul(down) > MOST_PIXELS {
            return Err(Error::Unfit(format!(
                "the table would have about {across} x {down} pixels, which is too large for a picture: name fewer values"
            )));
        }
        Ok(Some(Self { columns, rows, labels, given }))
    }

    /// The settings of each image, row by row.
    pub(crate) fn cells(&self) -> Vec<Vec<(&'static str, String)>> {
        let [columns, rows] = &self.labels;
        let column = |label: &String| (self.columns.name(), label.clone());
        let Some(axis) = &self.rows else { return columns.iter().map(|label| vec![column(label)]).collect() };
        let row = |label: &String| (axis.name(), label.clone());
        rows.iter().flat_map(|of_row| columns.iter().map(move |label| vec![column(label), row(of_row)])).collect()
    }

    /// The table as a picture.
    pub(crate) fn figure(&self, images: Images, about: &[(&str, String)]) -> Result<Vec<u8>> {
        let [columns, rows] = &self.labels;
        let name = self.rows.as_ref().map_or("", Axis::name);
        let block = Block {
            title: self.columns.name(),
            images,
            columns: columns.len(),
            column_labels: columns.clone(),
            row_labels: rows.iter().map(|label| format!("{name} {label}")).collect(),
        };
        Ok(figure("", &[block], about)?)
    }
}

/// A side of a table: a setting and its values.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    pub(crate) name: &'static str,
    values: Values,
    /// As it was typed.
    pub(crate) text: String,
}

#[derive(Debug, Clone)]
enum Values {
    Whole(Vec<u64>),
    Real(Vec<f64>),
    /// Names of schedulers or of classes, separated by commas.
    Names(String),
}

impl Side {
    pub(crate) fn parse(text: &str) -> std::result::Result<Self, String> {
        const KNOWN: &str = "seeds, class, guidance, steps, scheduler, eta or strength";
        let Some((name, values)) = text.split_once('=') else {
            return Err(format!("expected a setting and its values, as in seeds=0..7; settings are {KNOWN}"));
        };
        let values = values.trim();
        let reals = |least: f64, most: f64| {
            let one = |word: &str| real(least..=most)(word.trim()).map_err(|e| format!("`{word}`: {e}"));
            values.split(',').map(one).collect::<std::result::Result<Vec<_>, _>>().map(Values::Real)
        };
        let (name, values) = match name.trim() {
            "seed" | "seeds" => ("seed", Values::Whole(numbers(values)?)),
            "step" | "steps" => {
                let steps = numbers(values)?;
                if let Some(wrong) = steps.iter().find(|steps| !(1..=100_000).contains(*steps)) {
                    return Err(format!("`{wrong}`: expected a whole number from 1 to 100000"));
                }
                ("steps", Values::Whole(steps))
            }
            "class" | "classes" => ("class", Values::Names(values.to_owned())),
            "scheduler" | "schedulers" => ("scheduler", Values::Names(values.to_owned())),
            "guidance" => ("guidance", reals(f64::NEG_INFINITY, f64::INFINITY)?),
            "eta" => ("eta", reals(0.0, 1.0)?),
            "strength" => ("strength", reals(0.0, 1.0)?),
            other => return Err(format!("there is no setting `{other}`; settings are {KNOWN}")),
        };
        Ok(Self { name, values, text: text.to_owned() })
    }

    /// The axis for a pipeline, and the labels of its values.
    fn axis(&self, pipeline: &DDPMPipeline, registry: &Registry) -> Result<(Axis, Vec<String>)> {
        let axis = match (self.name, &self.values) {
            ("seed", Values::Whole(seeds)) => Axis::Seed(seeds.clone()),
            (_, Values::Whole(steps)) => Axis::Steps(steps.iter().map(|&steps| steps as usize).collect()),
            ("guidance", Values::Real(scales)) => Axis::Guidance(scales.clone()),
            ("eta", Values::Real(etas)) => Axis::Eta(etas.clone()),
            (_, Values::Real(strengths)) => Axis::Strength(strengths.clone()),
            ("class", Values::Names(names)) => {
                let classes = classes::by_class(std::slice::from_ref(names), pipeline)?.unwrap_or_default();
                let labels: Vec<u32> = classes.iter().filter_map(|labels| labels.first().copied()).collect();
                let names = labels.iter().map(|&label| pipeline.labels().name(label)).collect();
                return Ok((Axis::Class(labels), names));
            }
            (_, Values::Names(names)) => {
                let swap = |name: &str| -> Result<_> {
                    let class_name = registry.schedulers.resolve(name.trim())?;
                    Ok(registry.schedulers.swap(class_name, pipeline.scheduler())?)
                };
                let schedulers = names.split(',').map(swap).collect::<Result<Vec<_>>>()?;
                return Ok((Axis::Scheduler(schedulers), names.split(',').map(|name| name.trim().into()).collect()));
            }
        };
        let labels = axis.labels();
        Ok((axis, labels))
    }
}
