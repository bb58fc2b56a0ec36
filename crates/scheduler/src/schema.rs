//! The JSON schemas of the schedulers' configurations.

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::*;

/// The schema of the configuration of each of this crate's schedulers, by its class name. It has all keys, each as
/// required; a file may omit any of them.
pub fn config_schemas(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
    vec![
        of::<CMStochasticIterativeConfig>(generator),
        of::<DDIMConfig>(generator),
        of::<DDIMInverseConfig>(generator),
        of::<DDPMConfig>(generator),
        of::<DEISMultistepConfig>(generator),
        of::<DPMSolverMultistepConfig>(generator),
        of::<DPMSolverMultistepInverseConfig>(generator),
        of::<DPMSolverSDEConfig>(generator),
        of::<DPMSolverSinglestepConfig>(generator),
        of::<EDMDPMSolverMultistepConfig>(generator),
        of::<EDMEulerConfig>(generator),
        of::<EulerAncestralDiscreteConfig>(generator),
        of::<EulerDiscreteConfig>(generator),
        of::<FlowMatchEulerDiscreteConfig>(generator),
        of::<FlowMatchHeunDiscreteConfig>(generator),
        of::<HeunDiscreteConfig>(generator),
        of::<IPNDMConfig>(generator),
        of::<KDPM2AncestralDiscreteConfig>(generator),
        of::<KDPM2DiscreteConfig>(generator),
        of::<KarrasVeConfig>(generator),
        of::<LCMConfig>(generator),
        of::<LMSDiscreteConfig>(generator),
        of::<LinearMixConfig>(generator),
        of::<PNDMConfig>(generator),
        of::<RePaintConfig>(generator),
        of::<SASolverConfig>(generator),
        of::<ScoreSdeVeConfig>(generator),
        of::<ScoreSdeVpConfig>(generator),
        of::<TCDConfig>(generator),
        of::<UnCLIPConfig>(generator),
        of::<UniPCMultistepConfig>(generator),
    ]
}

fn of<M: Method + JsonSchema>(generator: &mut SchemaGenerator) -> (&'static str, Schema) {
    (M::CLASS_NAME, M::json_schema(generator))
}
