/// diffusers' pipelines that draw images with a model and a scheduler and nothing else.
///
/// They differ in what they sample by unless told otherwise. What they do is the same here: a scheduler's
/// [`Run`](kakusan_scheduler::Run) says how often the model is called, what it is given, and with which noise to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PipelineClass {
    /// `DDPMPipeline` (Ho et al. 2020).
    #[default]
    DDPM,
    /// `DDIMPipeline` (Song et al. 2021): samples by DDIM, whatever it was saved with.
    DDIM,
    /// `PNDMPipeline` (Liu et al. 2022): samples by PNDM, whatever it was saved with.
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

    /// The class of this name, if there is one.
    pub fn from_name(class_name: &str) -> Option<Self> {
        let classes = [DDPM, DDIM, PNDM, ScoreSdeVe, KarrasVe, RePaint, ConsistencyModel];
        classes.into_iter().find(|class| class.class_name() == class_name)
    }

    /// diffusers' `_class_name`.
    pub fn class_name(self) -> &'static str {
        Self::CLASS_NAMES[self as usize]
    }

    /// The class of the scheduler that it samples by, where that does not depend on what it was saved with.
    pub fn scheduler_class(self) -> Option<&'static str> {
        match self {
            DDIM => Some("DDIMScheduler"),
            PNDM => Some("PNDMScheduler"),
            _ => None,
        }
    }

    /// How many steps diffusers samples in unless told otherwise.
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
