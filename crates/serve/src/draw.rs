//! One draw: its plan, its state, and what was drawn.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::attend::Attendance;
use crate::plan::{DrawSettings, Plan};

/// How far a draw is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// It waits for others.
    Waiting,
    /// It is drawn.
    Drawing,
    /// Its images are there.
    Done,
    /// It cannot be drawn; `error` says why.
    Failed,
    /// Its client has cancelled it, or has gone.
    Cancelled,
}

impl Stage {
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// The state of a draw.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct State {
    /// Its identifier.
    pub(crate) id: String,
    /// How far it is.
    pub(crate) state: Stage,
    /// How many requests are before it; null when it does not wait.
    pub(crate) position: Option<usize>,
    /// Model calls that are done: the images of steps 0 (the noise) to this one can be fetched.
    pub(crate) step: usize,
    /// All model calls.
    pub(crate) steps: usize,
    /// The timestep of the last model call.
    pub(crate) timestep: Option<f32>,
    /// The number of images.
    pub(crate) images: usize,
    /// The seed of each image; of an interpolation, those of both ends.
    pub(crate) seeds: Vec<u64>,
    /// Why it failed or was cancelled.
    pub(crate) error: Option<String>,
    /// Seconds of drawing so far.
    pub(crate) seconds: f64,
    /// The command that draws the same images; it calls the pictures of the request init.png and mask.png.
    pub(crate) command: String,
    /// What about the settings will hardly give the intended images.
    pub(crate) warnings: Vec<String>,
    /// The settings, with all defaults filled in.
    pub(crate) settings: DrawSettings,
}

/// What changes of it.
#[derive(Debug, Clone)]
struct Progress {
    stage: Stage,
    position: Option<usize>,
    step: usize,
    steps: usize,
    timestep: Option<f32>,
    error: Option<String>,
    began: Option<Instant>,
    seconds: f64,
}

/// A draw.
#[derive(Debug)]
pub(crate) struct Draw {
    pub(crate) id: String,
    pub(crate) plan: Plan,
    pub(crate) client: IpAddr,
    pub(crate) attendance: Attendance,
    progress: watch::Sender<Progress>,
    /// Whether the thread that draws need not go on.
    given_up: AtomicBool,
    /// The bytes of the shown channels of each step `[n, c, h, w]`.
    steps: Mutex<Vec<Arc<[u8]>>>,
    /// The finished images, with pixels in 0..1 `[n, c, h, w]`.
    images: OnceLock<Vec<f32>>,
}

/// Tells of each change of a draw.
pub(crate) struct Changes(watch::Receiver<Progress>);

impl Changes {
    /// Waits for the next change.
    pub(crate) async fn next(&mut self) {
        let _ = self.0.changed().await;
    }
}

impl Draw {
    pub(crate) fn new(id: String, plan: Plan, client: IpAddr, position: usize) -> Self {
        let progress = Progress {
            stage: Stage::Waiting,
            position: Some(position),
            step: 0,
            steps: plan.timesteps.len(),
            timestep: None,
            error: None,
            began: None,
            seconds: 0.0,
        };
        Self {
            id,
            plan,
            client,
            attendance: Attendance::new(),
            progress: watch::Sender::new(progress),
            given_up: AtomicBool::new(false),
            steps: Mutex::default(),
            images: OnceLock::new(),
        }
    }

    pub(crate) fn state(&self) -> State {
        let now = self.progress.borrow().clone();
        State {
            id: self.id.clone(),
            state: now.stage,
            position: now.position,
            step: now.step,
            steps: now.steps,
            timestep: now.timestep,
            images: self.plan.count,
            seeds: self.plan.settings.seeds.clone(),
            error: now.error,
            seconds: now
                .began
                .filter(|_| !now.stage.is_over())
                .map_or(now.seconds, |began| began.elapsed().as_secs_f64()),
            command: self.plan.command.clone(),
            warnings: self.plan.warnings.clone(),
            settings: self.plan.settings.clone(),
        }
    }

    pub(crate) fn stage(&self) -> Stage {
        self.progress.borrow().stage
    }

    pub(crate) fn changes(&self) -> Changes {
        Changes(self.progress.subscribe())
    }

    /// So many requests are before it.
    pub(crate) fn wait_at(&self, position: usize) {
        self.progress.send_if_modified(|now| {
            let changes = now.stage == Stage::Waiting && now.position != Some(position);
            if changes {
                now.position = Some(position);
            }
            changes
        });
    }

    pub(crate) fn begin(&self) {
        self.progress.send_modify(|now| {
            now.stage = Stage::Drawing;
            now.position = None;
            now.began = Some(Instant::now());
        });
    }

    /// So many of all model calls are done.
    pub(crate) fn advance(&self, step: usize, steps: usize) {
        let timestep = step.checked_sub(1).and_then(|index| self.plan.timesteps.get(index)).copied();
        self.progress.send_modify(|now| {
            if now.stage == Stage::Drawing {
                (now.step, now.steps, now.timestep) = (step, steps, timestep);
            }
        });
    }

    /// Ends it, unless it has ended. Returns whether it did.
    pub(crate) fn end(&self, stage: Stage, error: Option<String>) -> bool {
        if stage != Stage::Done {
            self.given_up.store(true, Ordering::Relaxed);
        }
        self.progress.send_if_modified(|now| {
            let ends = !now.stage.is_over();
            if ends {
                now.seconds = now.began.map_or(0.0, |began| began.elapsed().as_secs_f64());
                (now.stage, now.position, now.error) = (stage, None, error);
            }
            ends
        })
    }

    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    pub(crate) fn keep_step(&self, bytes: Vec<u8>) {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).push(bytes.into());
    }

    /// Puts the finished images in place of the last step's, from which they differ where a picture is kept.
    pub(crate) fn finish_steps(&self, bytes: Vec<u8>) {
        if let Some(last) = self.steps.lock().unwrap_or_else(PoisonError::into_inner).last_mut() {
            *last = bytes.into();
        }
    }

    /// The bytes of a step.
    pub(crate) fn step(&self, step: usize) -> Option<Arc<[u8]>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).get(step).cloned()
    }

    /// Keeps the finished images.
    pub(crate) fn keep_images(&self, pixels: Vec<f32>) {
        let _ = self.images.set(pixels); // they are set once
    }

    pub(crate) fn images(&self) -> Option<&[f32]> {
        self.images.get().map(Vec::as_slice)
    }

    /// The bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.iter().map(|step| step.len()).sum::<usize>() + self.images().map_or(0, size_of_val)
    }
}
