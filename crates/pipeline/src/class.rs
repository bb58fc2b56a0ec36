/// diffusers' pipelines that draw images with a model and a scheduler and nothing else.
///
/// They differ in their default scheduler and number of steps. The loop is the same for all: a scheduler's
/// [`Run`](kakusan_scheduler::Run) says how often to call the model, with which input, and which noise to start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PipelineClass {
    /// `DDPMPipeline` (Ho et al. 2020).
    #[default]
    DDPM,
    /// `DDIMPipeline` (Song et al. 2021): samples with DDIM, regardless of the saved scheduler.
    DDIM,
    /// `PNDMPipeline` (Liu et al. 2022): samples with PNDM, regardless of the saved scheduler.
    PNDM,
    /// `ScoreSdeVePipeline` (Song et al. 2021), with pixels in 0..1.
    ScoreSdeVe,
    /// `KarrasVePipeline` (Karras et al. 2022).
    KarrasVe,
    /// `RePaintPipeline` (Lugmayr et al. 2022): [`DDPMPipeline::repaint`](crate::DDPMPipeline::repaint).
    RePaint,
    /// `ConsistencyModelPipeline` (Song et al. 2023).
    ConsistencyModel,
}

use PipelineClass::{ConsistencyModel, DDIM, DDPM, KarrasVe, PNDM, RePaint, ScoreSdeVe};

impl PipelineClass {
    /// The names of all classes.
    pub const CLASS_NAMES: [&str; 7] = [
        "DDPMPipeline",
        "DDIMPipeline",
        "PNDMPipeline",
        "ScoreSdeVePipeline",
        "KarrasVePipeline",
        "RePaintPipeline",
        "ConsistencyModelPipeline",
    ];

    /// The class with this name, if there is one.
    pub fn from_name(class_name: &str) -> Option<Self> {
        let classes = [DDPM, DDIM, PNDM, ScoreSdeVe, KarrasVe, RePaint, ConsistencyModel];
        classes.into_iter().find(|class| class.class_name() == class_name)
    }

    /// diffusers' `_class_name`.
    pub fn class_name(self) -> &'static str {
        Self::CLASS_NAMES[self as usize]
    }

    /// The class of the scheduler that this pipeline always samples with; `None` if it uses the saved one.
    pub fn scheduler_class(self) -> Option<&'static str> {
        match self {
            DDIM => Some("DDIMScheduler"),
            PNDM => Some("PNDMScheduler"),
            _ => None,
        }
    }

    /// diffusers' default number of sampling steps.
    pub fn default_steps(self) -> usize {
        match self {
            DDPM => 1000,
            DDIM | PNDM | KarrasVe => 50,
            ScoreSdeVe => 2000,
            RePaint => 250,
            ConsistencyModel => 1,
        }
    }
}
