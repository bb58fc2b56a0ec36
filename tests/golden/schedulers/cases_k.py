"""The cases of DDIM, PNDM, and the samplers from k-diffusion."""

from itertools import product

from cases import case

SPACINGS = ["linspace", "leading", "trailing"]
CONVERSIONS = [None, "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"]


def spaced(steps=10, **config):
    """Every timestep spacing with every spacing of noise levels, of which v-prediction has half."""
    return [
        case(steps, prediction_type=prediction, timestep_spacing=spacing, **({conversion: True} if conversion else {}), **config)
        for prediction, conversions in [("epsilon", CONVERSIONS), ("v_prediction", CONVERSIONS[:2])]
        for spacing, conversion in product(SPACINGS, conversions)
    ]


LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}

CASES = {
    "DDIMScheduler": [
        *[
            case(prediction_type=prediction, timestep_spacing=spacing, step={"eta": eta})
            for prediction, spacing, eta in product(["epsilon", "sample", "v_prediction"], SPACINGS, [0.0, 0.7])
        ],
        *[case(steps=7, timestep_spacing=spacing, set_alpha_to_one=False) for spacing in SPACINGS],
        *[case(step={"use_clipped_model_output": True, "eta": eta}) for eta in [0.0, 1.0]],
        case(beta_schedule="squaredcos_cap_v2", steps=20),
        case(**LATENT, clip_sample=False, steps_offset=1, set_alpha_to_one=False),
        case(clip_sample_range=0.5),
        case(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=2.0),
        *[
            case(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing=spacing, step={"eta": 0.3})
            for spacing in SPACINGS
        ],
        case(num_train_timesteps=100, steps=100),
        case(start=4),
        case(steps=1),
    ],
    "DDIMInverseScheduler": [
        *[
            case(prediction_type=prediction, timestep_spacing=spacing, clip_sample=clip)
            for prediction, spacing, clip in product(["epsilon", "v_prediction"], ["leading", "trailing"], [True, False])
        ],
        *[case(prediction_type="sample", set_alpha_to_one=False, steps=steps) for steps in [7, 10]],
        case(set_alpha_to_one=False, steps_offset=1, clip_sample_range=0.5),
        case(**LATENT, clip_sample=False, steps=20),
        case(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"),
        case(rescale_betas_zero_snr=True, timestep_spacing="trailing"),
        case(steps=1),
    ],
    "PNDMScheduler": [
        *[
            case(prediction_type=prediction, timestep_spacing=spacing, skip_prk_steps=skip, steps=steps)
            for prediction, spacing, skip, steps in product(["epsilon", "v_prediction"], SPACINGS, [True, False], [7, 10])
        ],
        *[case(set_alpha_to_one=True, skip_prk_steps=skip) for skip in [True, False]],
        *[case(**LATENT, steps_offset=1, skip_prk_steps=skip) for skip in [True, False]],
        case(beta_schedule="squaredcos_cap_v2"),
        *[case(skip_prk_steps=True, steps=steps) for steps in [1, 2, 3, 4]],
        case(steps=4),
        case(num_train_timesteps=100, steps=100),
    ],
    "LMSDiscreteScheduler": [
        *spaced(),
        case(prediction_type="sample"),
        *[case(step={"order": order}) for order in [1, 2, 3, 6]],
        case(**LATENT, timestep_spacing="leading", steps_offset=1, step={"order": 3}),
        case(beta_schedule="squaredcos_cap_v2"),
        case(steps=30, use_karras_sigmas=True),
        case(start=4),
        case(steps=1),
    ],
    "EulerAncestralDiscreteScheduler": [
        *[
            case(prediction_type=prediction, timestep_spacing=spacing, steps=steps)
            for prediction, spacing, steps in product(["epsilon", "v_prediction"], SPACINGS, [7, 10])
        ],
        *[
            case(rescale_betas_zero_snr=True, timestep_spacing=spacing, prediction_type="v_prediction")
            for spacing in SPACINGS
        ],
        case(**LATENT, timestep_spacing="leading", steps_offset=1),
        case(beta_schedule="squaredcos_cap_v2"),
        case(start=4),
        case(steps=1),
        case(steps=40, seed=3),
    ],
    "HeunDiscreteScheduler": [
        *spaced(steps=6),
        *[case(prediction_type="sample", clip_sample=clip) for clip in [True, False]],
        case(clip_sample=True, clip_sample_range=0.5, prediction_type="v_prediction"),
        *[case(beta_schedule=betas) for betas in ["scaled_linear", "squaredcos_cap_v2", "exp"]],
        case(timestep_spacing="leading", steps_offset=1, steps=7),
        case(timesteps=[999, 700, 650, 20, 3]),
        case(start=4),
        case(steps=1),
    ],
    "KDPM2DiscreteScheduler": [
        *spaced(steps=6),
        *[case(beta_schedule=betas) for betas in ["scaled_linear", "squaredcos_cap_v2"]],
        case(timestep_spacing="leading", steps_offset=1, steps=7),
        case(start=4),
        case(steps=1),
        case(steps=2),
    ],
    "KDPM2AncestralDiscreteScheduler": [
        *spaced(steps=6),
        case(beta_schedule="scaled_linear"),  # from the highest noise level of squaredcos_cap_v2, diffusers steps to NaN
        case(timestep_spacing="leading", steps_offset=1, steps=7, seed=2),
        case(start=4),
        case(steps=1),
        case(steps=2),
    ],
    # its noise is torchsde's, and ours is not
    "DPMSolverSDEScheduler": [
        *spaced(steps=6, noise_sampler_seed=0),
        *[case(beta_schedule=betas) for betas in ["scaled_linear", "squaredcos_cap_v2"]],
        case(timestep_spacing="leading", steps_offset=1, steps=7),
        case(start=4),
        case(steps=1),
        case(steps=2),
    ],
}
for sde in CASES["DPMSolverSDEScheduler"]:
    sde["options"]["step"] = {"s_noise": 0.0}
