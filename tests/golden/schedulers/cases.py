"""How to write a case, and the cases of DDPM and Euler."""

from itertools import product


def case(steps=10, seed=0, start=0, step=None, model_channels=1, timesteps=None, sigmas=None, mu=None, **config):
    """A sampling in `steps` steps by a scheduler with this `config`; `step` holds further arguments of each step."""
    options = {"num_inference_steps": steps} if timesteps is None and sigmas is None else {}
    given = {"timesteps": timesteps, "sigmas": sigmas, "start": start or None, "step": step, "mu": mu}
    options |= {name: value for name, value in given.items() if value is not None}
    return {"config": config, "options": options, "seed": seed, "model_channels": model_channels}


CASES = {
    "DDPMScheduler": [
        *[
            case(prediction_type=prediction, timestep_spacing=spacing, beta_schedule=betas)
            for prediction, spacing, betas in product(
                ["epsilon", "sample", "v_prediction"], ["linspace", "leading", "trailing"], ["linear", "squaredcos_cap_v2"]
            )
        ],
        *[case(steps=7, beta_schedule=betas) for betas in ["scaled_linear", "sigmoid", "laplace"]],
        *[case(steps=steps, timestep_spacing="trailing") for steps in [3, 7]],
        *[case(variance_type=variance, seed=1) for variance in ["fixed_small_log", "fixed_large"]],
        case(variance_type="learned", model_channels=2, prediction_type="sample"),
        case(variance_type="learned_range", model_channels=2),
        case(clip_sample=False),
        case(clip_sample_range=0.5),
        case(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=2.0),
        case(thresholding=True, sample_max_value=1.5, prediction_type="v_prediction"),
        *[
            case(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing=spacing)
            for spacing in ["leading", "trailing", "linspace"]
        ],
        case(rescale_betas_zero_snr=True, steps_offset=1),
        case(num_train_timesteps=100, steps=100),
        case(timesteps=[999, 700, 650, 20, 3]),
        case(start=4),
    ],
    "EulerDiscreteScheduler": [
        *[
            case(prediction_type=prediction, timestep_spacing=spacing, **{conversion: True} if conversion else {})
            for prediction, spacing, conversion in product(
                ["epsilon", "v_prediction"],
                ["linspace", "leading", "trailing"],
                [None, "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"],
            )
        ],
        case(prediction_type="sample"),
        case(interpolation_type="log_linear"),
        case(interpolation_type="log_linear", use_karras_sigmas=True),
        case(timestep_type="continuous", prediction_type="v_prediction"),
        case(timestep_type="continuous", prediction_type="v_prediction", use_karras_sigmas=True, sigma_min=0.002, sigma_max=80.0),
        case(final_sigmas_type="sigma_min"),
        *[
            case(rescale_betas_zero_snr=True, timestep_spacing=spacing, prediction_type="v_prediction")
            for spacing in ["linspace", "trailing"]
        ],
        case(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="leading", steps_offset=1),
        case(beta_schedule="squaredcos_cap_v2"),
        case(step={"s_churn": 2.0, "s_tmin": 0.1, "s_tmax": 50.0, "s_noise": 1.003}),
        case(timesteps=[999, 700, 650, 20, 3]),
        case(sigmas=[100.0, 20.0, 5.0, 1.0, 0.0]),
        case(start=4),
        case(steps=1),
    ],
}
