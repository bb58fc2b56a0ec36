//! Fits the steps of a sampling to a model, after GITS (Chen et al. 2024, "On the Trajectory Regularity of ODE-based
//! Diffusion Sampling", section 4).
//!
//! The samples of a deterministic scheduler follow a trajectory from noise to images. It is drawn once in many fine
//! steps. Each coarse step leads from one of their levels to a later one, and its cost is the squared error that it
//! makes. Dynamic programming then finds the levels between which so many steps cost least in all.
//!
//! Three things differ from the paper, each because the samples are better by it (docs/few-steps.md):
//!
//! - The paper takes the cost of Euler's step for every solver. Here it is that of the scheduler's own step, which may
//!   depend on the step before. The network is not called for it: its outputs along the trajectory are known.
//! - The paper counts how far a step ends from the straight line between noise and image. Here an error counts as what
//!   it becomes in the image ([`Trajectory::sizes`]).
//! - The paper multiplies the costs of each step by 1.15 against the one before. Here only the last step counts more
//!   ([`LAST`]).

use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};
use kakusan_rng::{Generator, Noise};
use kakusan_scheduler::{Error as SchedulerError, Registry, RunOptions, Schedule, Scheduler};

use crate::{DDPMPipeline, Error, Result, SampleOptions, SampleStep};

/// How much more the last step counts than each of the others. Its error stays in the image as noise or blur. Those
/// before it are partly removed by the model calls that follow, and partly lead to other images, which are as good.
const LAST: f64 = 3.0;

/// The most steps of a fine trajectory: there is a cost for every three of its levels.
const MOST_FINE_STEPS: usize = 200;

/// Steps that were fitted to a model, and how near they come to the fine trajectory.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Fit {
    /// The steps, for [`FittedSteps`](kakusan_scheduler::FittedSteps) or [`RunOptions::schedule`].
    pub schedule: Schedule,
    /// What the model is conditioned on in each step.
    pub timesteps: Vec<f32>,
    /// How far the images of these steps are from those of the fine steps, from the same noise: the root of the mean
    /// squared difference of pixels in 0..1.
    pub difference: f64,
    /// The same of as many steps as the scheduler spaces them itself.
    pub unfitted: f64,
    /// The same of twice as many, but no more than fine ones.
    pub twice_unfitted: f64,
}

/// How far a fit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FitProgress {
    /// What is being done.
    pub stage: FitStage,
    /// How much of it is done.
    pub done: usize,
    /// How much of it there is.
    pub total: usize,
}

/// What a fit consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FitStage {
    /// Drawing the fine trajectory: model calls.
    Trajectory,
    /// The costs of all steps: levels from which they lead.
    Costs,
    /// Drawing images in the fitted and in other steps: model calls.
    Comparison,
}

impl DDPMPipeline {
    /// Fits `steps` steps of the scheduler to the model. `fine` says how the fine trajectory is drawn: its number of
    /// steps, of images, their classes, and the guidance. 40 steps and 64 images are enough for small images. All
    /// samples and model outputs of the fine trajectory are in memory at the same time.
    ///
    /// `watch` is called on progress. If it returns [`ControlFlow::Break`], the result is `None`.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// # use std::sync::Arc;
    /// # use candle_core::Device;
    /// # use kakusan_models::{BasicUNetConfig, ModelConfig, Weights};
    /// # use kakusan_pipeline::{DDPMPipeline, SampleOptions};
    /// # use kakusan_rng::Generator;
    /// # use kakusan_scheduler::{FlowMatchEulerDiscreteScheduler, RunOptions};
    ///
    /// # let config = Arc::new(BasicUNetConfig::default());
    /// # let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
    /// let scheduler = Arc::new(FlowMatchEulerDiscreteScheduler::default());
    /// let pipeline = DDPMPipeline::new(config, weights, scheduler)?;
    /// let fine = SampleOptions::new(2).steps(12);
    /// let fit = pipeline.fit_steps(3, &fine, &Generator::new(0), |_| ControlFlow::Continue(()))?.unwrap();
    /// let run = RunOptions { schedule: fit.schedule, ..RunOptions::default() };
    /// let options = SampleOptions::new(2).run(run);
    /// pipeline.sample_with(&options, &mut Generator::new(0), |_| ControlFlow::Continue(()))?;
    /// # Ok::<(), kakusan_pipeline::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the scheduler has no trajectory, or takes no steps by hand; when there is nothing to choose: fewer than two
    /// steps, or as many as fine ones; and as [`sample_with`](Self::sample_with).
    pub fn fit_steps(
        &self,
        steps: usize,
        fine: &SampleOptions,
        rng: &Generator,
        mut watch: impl FnMut(FitProgress) -> ControlFlow<()>,
    ) -> Result<Option<Fit>> {
        let n = fine.run.num_steps();
        if !(2..n).contains(&steps) || n > MOST_FINE_STEPS {
            return Err(Error::Unfit(format!(
                "{steps} steps cannot be fitted to a trajectory of {n}: there must be at least 2, and fewer than fine \
                 steps, which are at most {MOST_FINE_STEPS}"
            )));
        }
        let scheduler = self.scheduler();
        let grid = Grid::new(scheduler, n).map_err(|reason| unfit(scheduler, n, &reason))?;
        let (mut samples, mut outputs) = (vec![], vec![]);
        let every: Vec<usize> = (0..=n).collect();
        let images = self.draw(grid.run(&every), fine, rng, |step| {
            samples.push(step.sample.clone());
            outputs.push(step.model_output.clone());
            watch(FitProgress { stage: FitStage::Trajectory, done: step.index + 1, total: n })
        })?;
        let Some(images) = images else { return Ok(None) };
        samples.push(images.clone());
        let deviation = deviation(&images)?;
        let size = |&(alpha, sigma): &(f32, f32)| f64::from(alpha).hypot(f64::from(sigma) / deviation);
        let sizes = grid.alpha_sigmas.iter().map(size).collect();
        let trajectory = Trajectory { scheduler, grid: &grid, sizes, samples, outputs };
        let costs = trajectory.costs(|done| watch(FitProgress { stage: FitStage::Costs, done, total: n }))?;
        let Some(costs) = costs else { return Ok(None) };
        let nodes = cheapest(n, steps, |step| costs[index(n, step)]);
        grid.check(scheduler, &nodes).map_err(|reason| unfit(scheduler, n, &reason))?;

        let twice = (2 * steps).min(n);
        let unfitted = |steps| RunOptions { unfitted: true, ..RunOptions::steps(steps) };
        let (mut done, mut differences) = (0, [0.0; 3]);
        let runs = [grid.run(&nodes), unfitted(steps), unfitted(twice)];
        for (run, difference) in runs.into_iter().zip(&mut differences) {
            let count = run.num_steps();
            let stage = FitStage::Comparison;
            let drawn = self.draw(run, fine, rng, |step| {
                watch(FitProgress { stage, done: done + step.index + 1, total: 2 * steps + twice })
            })?;
            let Some(drawn) = drawn else { return Ok(None) };
            let range = scheduler.process().pixel_range();
            let squares = (range.to_unit(&drawn)? - range.to_unit(&images)?)?.to_dtype(DType::F32)?.sqr()?;
            *difference = f64::from(squares.mean_all()?.to_scalar::<f32>()?).sqrt();
            done += count;
        }
        let [difference, unfitted, twice_unfitted] = differences;
        let timesteps = nodes[..steps].iter().map(|&node| grid.timesteps[node]).collect();
        Ok(Some(Fit { schedule: grid.schedule(&nodes), timesteps, difference, unfitted, twice_unfitted }))
    }

    /// Draws images with the options of `fine`, but another run; `None` if `watch` stopped.
    fn draw(
        &self,
        run: RunOptions,
        fine: &SampleOptions,
        rng: &Generator,
        mut watch: impl FnMut(&SampleStep) -> ControlFlow<()>,
    ) -> Result<Option<Tensor>> {
        let mut stopped = false;
        let images = self.sample_with(&fine.clone().run(run), &mut rng.clone(), |step| {
            let flow = watch(step);
            stopped = flow.is_break();
            flow
        })?;
        Ok((!stopped).then_some(images))
    }
}

/// A scheduler that cannot be fitted, and those that can for the same model.
fn unfit(scheduler: &dyn Scheduler, n: usize, reason: &str) -> Error {
    let registry = Registry::default();
    let fits = |name: &String| registry.swap(name, scheduler).is_ok_and(|other| Grid::new(other.as_ref(), n).is_ok());
    let fitting: Vec<String> = registry.class_names().into_iter().filter(fits).collect();
    let others = if fitting.is_empty() { String::new() } else { format!("; others can: {}", fitting.join(", ")) };
    Error::Unfit(format!("the steps of {} cannot be fitted: {reason}{others}", scheduler.class_name()))
}

/// The levels of the fine steps, from the noise, node 0, to the image, node n.
#[derive(Debug)]
struct Grid {
    /// Whether the scheduler is told noise levels, that of the last node included, or timesteps.
    by_sigmas: bool,
    levels: Vec<f64>,
    /// What the model is conditioned on at each node but the last.
    timesteps: Vec<f32>,
    /// `(α, σ)` of samples at each node.
    alpha_sigmas: Vec<(f32, f32)>,
}

impl Grid {
    /// `n` steps as the scheduler spaces them. The error says why it cannot be fitted.
    fn new(scheduler: &dyn Scheduler, n: usize) -> std::result::Result<Self, String> {
        let even = RunOptions { unfitted: true, ..RunOptions::steps(n) };
        let even = scheduler.run_with(&even).map_err(|e| e.to_string())?;
        if even.timesteps().len() != n {
            return Err("its steps call the model more than once".into());
        }
        let with = |by_sigmas, levels: &[f32]| {
            let levels = levels.iter().map(|&level| f64::from(level)).collect();
            Self { by_sigmas, levels, timesteps: vec![], alpha_sigmas: vec![] }
        };
        let every: Vec<usize> = (0..=n).collect();
        // noise levels first: a flow's timesteps would be shifted, but not what the model is conditioned on
        let mut grid = with(true, even.sigmas().unwrap_or_default());
        let mut run = scheduler.run_with(&grid.run(&every));
        if matches!(run, Err(SchedulerError::Option { .. })) {
            grid = with(false, even.timesteps());
            run = scheduler.run_with(&grid.run(&every));
        }
        let run = run.map_err(|e| match e {
            SchedulerError::Option { .. } => "it takes neither timesteps nor noise levels".into(),
            other => other.to_string(),
        })?;
        grid.timesteps = run.timesteps().to_vec();
        let known = run.alpha_sigmas().ok_or("it does not know the noise levels of its steps")?;
        grid.alpha_sigmas = known.into_iter().chain([(1.0, 0.0)]).collect();
        grid.check(scheduler, &[0, 1, (n / 2).max(2), n])?;
        check_deterministic(scheduler, &grid.run(&every))?;
        Ok(grid)
    }

    /// Steps between nodes, the last of which is node n.
    fn schedule(&self, nodes: &[usize]) -> Schedule {
        let levels = nodes.iter().filter_map(|&node| self.levels.get(node).copied()).collect();
        if self.by_sigmas { Schedule::Sigmas(levels) } else { Schedule::Timesteps(levels) }
    }

    fn run(&self, nodes: &[usize]) -> RunOptions {
        RunOptions { schedule: self.schedule(nodes), ..RunOptions::default() }
    }

    /// Refuses a scheduler that spaces the levels that it is told otherwise.
    fn check(&self, scheduler: &dyn Scheduler, nodes: &[usize]) -> std::result::Result<(), String> {
        let run = scheduler.run_with(&self.run(nodes)).map_err(|e| e.to_string())?;
        let expected = nodes.iter().filter_map(|&node| self.timesteps.get(node));
        if run.timesteps().iter().eq(expected) {
            return Ok(());
        }
        Err("it spaces the levels that it is told by itself: unset shift_terminal and use_*_sigmas".into())
    }
}

/// Refuses a scheduler whose steps draw noise.
fn check_deterministic(scheduler: &dyn Scheduler, options: &RunOptions) -> std::result::Result<(), String> {
    let zeros = |channels: usize| Tensor::zeros((1, channels, 2, 2), DType::F32, &Device::Cpu);
    let step = |channels: usize| -> Result<bool> {
        let mut noise = NoNoise::default();
        scheduler.run_with(options)?.step(&zeros(channels)?, &zeros(1)?, &mut noise)?;
        Ok(noise.is_asked_for)
    };
    // a model that predicts variances, too, has twice the channels
    match step(1).or_else(|_| step(2)) {
        Ok(false) => Ok(()),
        Ok(true) => Err("its steps add new noise, so there is no trajectory to follow".into()),
        Err(e) => Err(e.to_string()),
    }
}

/// Zeros in the place of noise, and whether any were asked for.
#[derive(Debug, Default)]
struct NoNoise {
    is_asked_for: bool,
}

impl NoNoise {
    fn zeros<T: Clone + Default>(&mut self, shape: &[usize]) -> std::result::Result<Vec<T>, kakusan_rng::Error> {
        self.is_asked_for = true;
        Ok(vec![T::default(); shape.iter().product()])
    }
}

impl Noise for NoNoise {
    fn randn_tensor(&mut self, shape: &[usize]) -> std::result::Result<Vec<f32>, kakusan_rng::Error> {
        self.zeros(shape)
    }

    fn normal_tensor(&mut self, shape: &[usize], _: f64, _: f64) -> std::result::Result<Vec<f32>, kakusan_rng::Error> {
        self.zeros(shape)
    }

    fn rand_tensor(&mut self, shape: &[usize]) -> std::result::Result<Vec<f32>, kakusan_rng::Error> {
        self.zeros(shape)
    }

    fn randint_tensor(&mut self, shape: &[usize], _: i64, _: i64) -> std::result::Result<Vec<i64>, kakusan_rng::Error> {
        self.zeros(shape)
    }
}

/// The samples and the model's outputs at all nodes; at node n, the images.
struct Trajectory<'a> {
    scheduler: &'a dyn Scheduler,
    grid: &'a Grid,
    /// What an error at each node is divided by to give that of the image, in the directions in which images differ
    /// most: `sqrt(α² + σ² / s²)`, where s is their deviation there. Of normal data, samples `α x₀ + σ ε` have s times
    /// this deviation, and the trajectory scales it to s.
    sizes: Vec<f64>,
    samples: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

impl Trajectory<'_> {
    /// The cost of each step, at its [`index`]; `None` if `watch` stopped.
    fn costs(&self, mut watch: impl FnMut(usize) -> ControlFlow<()>) -> Result<Option<Vec<f64>>> {
        let n = self.outputs.len();
        let mut costs = vec![f64::INFINITY; (n + 1).pow(3)];
        for from in 0..n {
            for before in 0..from.max(1) {
                for to in from + 1..=n {
                    costs[index(n, [before, from, to])] = self.cost([before, from, to])?;
                }
            }
            if watch(from + 1).is_break() {
                return Ok(None);
            }
        }
        Ok(Some(costs))
    }

    /// The squared error of the step from node `from` to node `to`, if the step before led there from `before`; the
    /// first step, from node 0, has none before it.
    fn cost(&self, [before, from, to]: [usize; 3]) -> Result<f64> {
        let n = self.outputs.len();
        let mut nodes = vec![before, from, to, n];
        nodes.dedup();
        let mut run = self.scheduler.run_with(&self.grid.run(&nodes))?;
        let mut noise = NoNoise::default();
        if before < from {
            run.step(&self.outputs[before], &self.samples[before], &mut noise)?;
        }
        let end = run.step(&self.outputs[from], &self.samples[from], &mut noise)?.prev_sample;
        let squares = (end - &self.samples[to])?.to_dtype(DType::F32)?.sqr()?;
        let cost = f64::from(squares.mean_all()?.to_scalar::<f32>()?) / self.sizes[to].powi(2);
        if cost.is_finite() {
            return Ok(cost);
        }
        let reason = "the model's outputs are not finite: its weights have diverged in training, or do not fit";
        Err(Error::Unfit(format!("{reason} {}", self.scheduler.class_name())))
    }
}

/// The standard deviation of images `[b, c, h, w]` in the directions in which they differ most: the root of the mean
/// variance of all principal components, each weighted by its variance.
fn deviation(images: &Tensor) -> Result<f64> {
    let images = images.to_dtype(DType::F32)?.flatten_from(1)?;
    let centred = images.broadcast_sub(&images.mean_keepdim(0)?)?;
    let products = centred.matmul(&centred.t()?)?; // [b, n] -> [b, b], which has the components' variances, times b
    let of = |sum: Tensor| -> Result<f64> { Ok(f64::from(sum.to_scalar::<f32>()?)) };
    let trace = of(centred.sqr()?.sum_all()?)?;
    let deviation = (of(products.sqr()?.sum_all()?)? / trace / images.dim(0)? as f64).sqrt();
    Ok(if deviation > 0.0 { deviation } else { 1.0 }) // images that are all the same tell nothing
}

/// The place of a step's cost among those of `n` fine steps: from node `before` by way of `from` to `to`.
fn index(n: usize, [before, from, to]: [usize; 3]) -> usize {
    (before * (n + 1) + from) * (n + 1) + to
}

/// The nodes of the `steps` steps from node 0 to node `n` that cost least in all; the last counts [`LAST`] times.
fn cheapest(n: usize, steps: usize, cost: impl Fn([usize; 3]) -> f64) -> Vec<usize> {
    let cost = |step: [usize; 3]| if step[2] == n { LAST * cost(step) } else { cost(step) };
    // by the nodes that the last step so far leads from and to: the least cost of all steps, and the node before these
    let nowhere = (f64::INFINITY, 0);
    let mut best = vec![vec![nowhere; n + 1]; n];
    for (to, first) in best[0].iter_mut().enumerate().skip(1) {
        *first = (cost([0, 0, to]), 0);
    }
    let mut rounds = vec![best];
    for _ in 1..steps {
        let last = &rounds[rounds.len() - 1];
        let longer = |from: usize, to: usize| {
            let ways = (0..from).map(|before| (last[before][from].0 + cost([before, from, to]), before));
            ways.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or(nowhere)
        };
        let to = |from: usize| (0..=n).map(move |to| if to > from { longer(from, to) } else { nowhere }).collect();
        rounds.push((0..n).map(to).collect());
    }
    let sum = |from: &usize| rounds[steps - 1][*from][n].0;
    let mut from = (0..n).min_by(|a, b| sum(a).total_cmp(&sum(b))).unwrap_or(0);
    let mut nodes = vec![n, from];
    let mut to = n;
    for best in rounds[1..].iter().rev() {
        (to, from) = (from, best[from][to].1);
        nodes.push(from);
    }
    nodes.reverse();
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All ways of going from node 0 to node n in so many steps.
    fn ways(n: usize, steps: usize) -> Vec<Vec<usize>> {
        let between = (0..1u32 << (n - 1)).filter(|set| set.count_ones() as usize == steps - 1);
        let nodes = |set: u32| (1..n).filter(move |node| set >> (node - 1) & 1 == 1);
        between.map(|set| [0].into_iter().chain(nodes(set)).chain([n]).collect()).collect()
    }

    #[test]
    fn dynamic_programming_finds_what_trying_all_ways_finds() {
        let n = 9;
        for seed in 0..20 {
            let costs = Generator::new(seed).rand((n + 1usize).pow(3));
            let cost = |step: [usize; 3]| f64::from(costs[index(n, step)]);
            let total = |nodes: &[usize]| -> f64 {
                let steps = nodes.len() - 1;
                let step = |i: usize| cost([nodes[i.max(1) - 1], nodes[i], nodes[i + 1]]);
                (0..steps - 1).map(step).sum::<f64>() + LAST * step(steps - 1)
            };
            for steps in 1..=n {
                let found = cheapest(n, steps, cost);
                let ways = ways(n, steps);
                let best = ways.iter().min_by(|a, b| total(a).total_cmp(&total(b))).unwrap();
                assert_eq!((&found, total(&found)), (best, total(best)), "seed {seed}, {steps} steps");
            }
        }
    }
}
