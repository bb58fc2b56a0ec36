"""The cases of the schedulers that are neither of the k-family nor multistep, and how those of them are sampled
whose interface is their own."""

from itertools import product

from cases import case

CASES = {
    "EDMEulerScheduler": [
        *[
            case(prediction_type=prediction, sigma_schedule=schedule, final_sigmas_type=final)
            for prediction, schedule, final in product(
                ["epsilon", "v_prediction"], ["karras", "exponential"], ["zero", "sigma_min"]
            )
        ],
        case(sigma_min=0.02, sigma_max=50.0, sigma_data=1.0, rho=5.0),
        case(step={"s_churn": 2.0, "s_tmin": 0.1, "s_tmax": 50.0, "s_noise": 1.003}, seed=1),
        case(step={"s_churn": 40.0}, prediction_type="v_prediction"),
        case(start=4),
        case(steps=1),
        case(steps=25),
    ],
    "LCMScheduler": [
        *[
            case(steps=4, prediction_type=prediction, beta_schedule=betas)
            for prediction, betas in product(
                ["epsilon", "sample", "v_prediction"], ["linear", "scaled_linear", "squaredcos_cap_v2"]
            )
        ],
        *[case(steps=steps, seed=1) for steps in [1, 7, 50]],
        case(steps=3, original_inference_steps=30, timestep_scaling=0.01),
        case(steps=4, clip_sample=True, clip_sample_range=0.5),
        case(steps=4, thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=2.0),
        case(steps=4, rescale_betas_zero_snr=True, prediction_type="v_prediction"),
        case(steps=4, set_alpha_to_one=False, steps_offset=1, timestep_spacing="trailing"),
        case(timesteps=[999, 700, 650, 20, 3]),
        case(steps=8, start=3),
    ],
    "TCDScheduler": [
        *[
            case(steps=4, prediction_type=prediction, beta_schedule=betas)
            for prediction, betas in product(
                ["epsilon", "sample", "v_prediction"], ["linear", "scaled_linear", "squaredcos_cap_v2"]
            )
        ],
        *[case(steps=steps, seed=1) for steps in [1, 7, 50]],
        *[case(steps=5, step={"eta": eta}) for eta in [0.0, 0.5, 1.0]],
        case(steps=3, original_inference_steps=30),
        case(steps=4, clip_sample=True, thresholding=True, set_alpha_to_one=False, steps_offset=1),
        case(steps=4, rescale_betas_zero_snr=True, prediction_type="v_prediction"),
        case(timesteps=[999, 700, 650, 20, 3]),
        case(steps=8, start=3),
    ],
}
