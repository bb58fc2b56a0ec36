use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::Tensor;
use kakusan_rng::PerImage;
use kakusan_scheduler::{Schedule, Scheduler};

use super::MOST_AT_ONCE;
use crate::{DDPMPipeline, Error, Result, SampleOptions, SampleWarning};

/// The most images of a grid.
const MOST_CELLS: usize = 4096;

/// A setting of a sampling, and its values along one side of a grid.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Axis {
    /// Seeds.
    Seed(Vec<u64>),
    /// Classes, by label.
    Class(Vec<u32>),
    /// [`SampleOptions::guidance_scale`].
    Guidance(Vec<f64>),
    /// The number of steps.
    Steps(Vec<usize>),
    /// Schedulers, each for the same model ([`Registry::swap`](kakusan_scheduler::Registry::swap)).
    Scheduler(Vec<Arc<dyn Scheduler>>),
    /// [`RunOptions::eta`](kakusan_scheduler::RunOptions::eta).
    Eta(Vec<f64>),
    /// [`SampleOptions::strength`].
    Strength(Vec<f64>),
}

impl Axis {
    /// What varies.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Seed(_) => "seed",
            Self::Class(_) => "class",
            Self::Guidance(_) => "guidance",
            Self::Steps(_) => "steps",
            Self::Scheduler(_) => "scheduler",
            Self::Eta(_) => "eta",
            Self::Strength(_) => "strength",
        }
    }

    /// Its values as text: numbers, and the names of schedulers without the word.
    ///
    /// ```
    /// use kakusan_pipeline::Axis;
    ///
    /// let axis = Axis::Guidance(vec![1.0, 2.5]);
    /// assert_eq!((axis.name(), axis.labels()), ("guidance", vec!["1".to_owned(), "2.5".to_owned()]));
    /// ```
    pub fn labels(&self) -> Vec<String> {
        fn texts<T: ToString>(values: &[T]) -> Vec<String> {
            values.iter().map(ToString::to_string).collect()
        }
        match self {
            Self::Seed(seeds) => texts(seeds),
            Self::Class(labels) => texts(labels),
            Self::Steps(steps) => texts(steps),
            Self::Guidance(values) | Self::Eta(values) | Self::Strength(values) => texts(values),
            Self::Scheduler(schedulers) => {
                let short = |scheduler: &Arc<dyn Scheduler>| scheduler.class_name().replace("Scheduler", "");
                schedulers.iter().map(short).collect()
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Seed(values) => values.len(),
            Self::Class(values) => values.len(),
            Self::Steps(values) => values.len(),
            Self::Scheduler(values) => values.len(),
            Self::Guidance(values) | Self::Eta(values) | Self::Strength(values) => values.len(),
        }
    }

    /// Whether images of different values can be drawn in one sampling.
    fn is_of_image(&self) -> bool {
        matches!(self, Self::Seed(_) | Self::Class(_))
    }
}

/// An image of a grid: its place, and how it is drawn.
struct Cell<'a> {
    place: usize,
    scheduler: &'a dyn Scheduler,
    options: SampleOptions,
    seed: u64,
    class: Option<u32>,
}

impl<'a> Cell<'a> {
    fn set(&mut self, axis: &'a Axis, i: usize) {
        match axis {
            Axis::Seed(seeds) => self.seed = seeds[i],
            Axis::Class(labels) => self.class = Some(labels[i]),
            Axis::Guidance(scales) => self.options.guidance_scale = scales[i],
            Axis::Steps(steps) => self.options.run.schedule = Schedule::Steps(steps[i]),
            Axis::Scheduler(schedulers) => self.scheduler = schedulers[i].as_ref(),
            Axis::Eta(etas) => self.options.run.eta = Some(etas[i]),
            Axis::Strength(strengths) => self.options.strength = Some(strengths[i]),
        }
    }
}

impl DDPMPipeline {
    /// Draws a table of images: one for each value of `columns`, and for each of `rows` if there are rows. Returns
    /// `[rows * columns, c, h, w]`, row by row, in the scheduler's range.
    ///
    /// What no axis sets is as in `options`, for one image: its class, an image to start from. Each image has the
    /// random numbers of its seed alone ([`PerImage`]), which is `seed` unless that is an axis.
    ///
    /// `watch` is told how many model calls are done, and of how many. If it returns [`ControlFlow::Break`], the result
    /// is `None`.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// # use std::sync::Arc;
    /// # use candle_core::Device;
    /// # use kakusan_models::{BasicUNetConfig, ModelConfig, Weights};
    /// # use kakusan_pipeline::{Axis, DDPMPipeline, SampleOptions};
    /// # use kakusan_rng::Generator;
    /// # use kakusan_scheduler::LinearMixScheduler;
    ///
    /// # let config = Arc::new(BasicUNetConfig::default());
    /// # let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
    /// # let pipeline = DDPMPipeline::new(config, weights, Arc::new(LinearMixScheduler::default()))?;
    /// let (seeds, steps) = (Axis::Seed(vec![0, 1, 2]), Axis::Steps(vec![2, 4]));
    /// let watch = |_, _| ControlFlow::Continue(());
    /// let table = pipeline.grid(&seeds, Some(&steps), &SampleOptions::new(1), 0, watch)?.unwrap();
    /// assert_eq!(table.dims(), [6, 1, 28, 28]); // seed 0, 1, 2 in 2 steps; seed 0, 1, 2 in 4 steps
    /// # Ok::<(), kakusan_pipeline::Error>(())
    /// ```
    ///
    /// # Errors
    /// When an axis is empty, both axes are of the same setting, the options are for several images, or there would be
    /// more than 4096; when a scheduler is for other models; and as [`sample_with`](Self::sample_with).
    pub fn grid(
        &self,
        columns: &Axis,
        rows: Option<&Axis>,
        options: &SampleOptions,
        seed: u64,
        mut watch: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<Tensor>> {
        self.check_grid(columns, rows, options)?;
        let rows_count = rows.map_or(1, Axis::len);
        let groups = self.groups(columns, rows, options, seed);
        let batches: Vec<&[Cell]> = groups.iter().flat_map(|cells| cells.chunks(MOST_AT_ONCE)).collect();
        // of all batches before the first is drawn, so that an option that cannot be used is refused at once
        let calls = |batch: &&[Cell]| -> Result<usize> {
            let Some(cell) = batch.first() else { return Ok(0) };
            Ok(cell.scheduler.run_with(&cell.options.run_from_start()?)?.timesteps().len())
        };
        let calls = batches.iter().map(calls).collect::<Result<Vec<_>>>()?;

        let (mut images, mut before) = (vec![None; rows_count * columns.len()], 0);
        for (batch, own) in batches.iter().zip(&calls) {
            let Some(cell) = batch.first() else { continue };
            let mut options = cell.options.clone();
            options.batch_size = batch.len();
            options.class_labels = batch.iter().map(|cell| cell.class).collect();
            let mut rng = PerImage::from_seeds(batch.iter().map(|cell| cell.seed));
            let mut stopped = false;
            let samples = self.sample_by(cell.scheduler, &options, &mut rng, |step| {
                let flow = watch(before + step.index + 1, calls.iter().sum());
                stopped |= flow.is_break();
                flow
            })?;
            if stopped {
                return Ok(None);
            }
            for (i, cell) in batch.iter().enumerate() {
                images[cell.place] = Some(samples.narrow(0, i, 1)?);
            }
            before += own;
        }
        Ok(Some(Tensor::cat(&images.into_iter().flatten().collect::<Vec<_>>(), 0)?))
    }

    /// What about the samplings of a [`grid`](Self::grid) will hardly give the intended images.
    ///
    /// # Errors
    /// When [`grid`](Self::grid) refuses the axes.
    pub fn grid_warnings(
        &self,
        columns: &Axis,
        rows: Option<&Axis>,
        options: &SampleOptions,
    ) -> Result<Vec<SampleWarning>> {
        self.check_grid(columns, rows, options)?;
        let groups = self.groups(columns, rows, options, 0);
        let mut warnings = vec![];
        for cell in groups.iter().filter_map(|cells| cells.first()) {
            for warning in cell.options.warnings(cell.scheduler) {
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            }
        }
        Ok(warnings)
    }

    /// The images of a grid; those that differ in seed and class alone, and so can be drawn together, are in one group.
    fn groups<'a>(
        &'a self,
        columns: &'a Axis,
        rows: Option<&'a Axis>,
        options: &SampleOptions,
        seed: u64,
    ) -> Vec<Vec<Cell<'a>>> {
        let group_of = |axis: Option<&Axis>, i: usize| if axis.is_some_and(|axis| !axis.is_of_image()) { i } else { 0 };
        let mut groups: Vec<((usize, usize), Vec<Cell>)> = vec![];
        let rows_count = rows.map_or(1, Axis::len);
        for (row, column) in (0..rows_count).flat_map(|row| (0..columns.len()).map(move |column| (row, column))) {
            let mut cell = Cell {
                place: row * columns.len() + column,
                scheduler: self.scheduler(),
                options: options.clone(),
                seed,
                class: options.class_labels.as_ref().and_then(|labels| labels.first().copied()),
            };
            cell.set(columns, column);
            if let Some(rows) = rows {
                cell.set(rows, row);
            }
            let key = (group_of(rows, row), group_of(Some(columns), column));
            match groups.iter_mut().find(|(known, _)| *known == key) {
                Some((_, cells)) => cells.push(cell),
                None => groups.push((key, vec![cell])),
            }
        }
        groups.into_iter().map(|(_, cells)| cells).collect()
    }

    fn check_grid(&self, columns: &Axis, rows: Option<&Axis>, options: &SampleOptions) -> Result<()> {
        let refuse = |reason: String| Err(Error::Unfit(reason));
        for axis in std::iter::once(columns).chain(rows) {
            if axis.len() == 0 {
                return refuse(format!("the grid has no value of {}; name one or more", axis.name()));
            }
            if let Axis::Scheduler(schedulers) = axis {
                let fits = |scheduler: &Arc<dyn Scheduler>| {
                    kakusan_scheduler::Registry::default().check_fit(scheduler.as_ref(), self.scheduler())
                };
                schedulers.iter().try_for_each(fits)?;
            }
        }
        if rows.is_some_and(|rows| rows.name() == columns.name()) {
            return refuse(format!("both sides of the grid are of {}; name two settings", columns.name()));
        }
        let cells = columns.len().saturating_mul(rows.map_or(1, Axis::len));
        if cells > MOST_CELLS {
            return refuse(format!("the grid would have {cells} images, more than {MOST_CELLS}; name fewer values"));
        }
        let of_one = |tensor: &Option<Tensor>| tensor.as_ref().is_none_or(|tensor| tensor.dims().first() == Some(&1));
        if ![&options.images, &options.mask].into_iter().all(of_one)
            || options.initial_sample.is_some()
            || options.class_labels.as_ref().is_some_and(|labels| labels.len() != 1)
        {
            return refuse("a grid is drawn with options for one image: one class, one image to start from".into());
        }
        Ok(())
    }
}
