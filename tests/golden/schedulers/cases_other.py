"""The cases of the schedulers that are neither from k-diffusion nor multistep, and the sampling loops of those with an
interface of their own."""

from itertools import product

import torch
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
    "CMStochasticIterativeScheduler": [
        *[case(steps=steps, seed=1) for steps in [1, 2, 7, 40]],
        *[case(steps=4, num_train_timesteps=201, clip_denoised=clip) for clip in [True, False]],
        case(steps=5, s_noise=1.01, sigma_min=0.01, sigma_max=20.0, sigma_data=1.0, rho=3.0),
        case(timesteps=[22, 0]),
        case(timesteps=[106, 55, 0], num_train_timesteps=201),
        case(steps=8, start=3),
    ],
    "FlowMatchEulerDiscreteScheduler": [
        case(),
        case(steps=1),
        *[case(shift=shift, num_train_timesteps=timesteps) for shift, timesteps in product([0.5, 3.0], [1000, 100])],
        *[
            case(use_dynamic_shifting=True, time_shift_type=kind, mu=mu, shift=3.0)
            for kind, mu in product(["exponential", "linear"], [0.5, 1.15])
        ],
        *[
            case(shift_terminal=terminal, shift=shift, **{conversion: True} if conversion else {})
            for terminal, shift, conversion in product(
                [None, 0.1], [1.0, 3.0], [None, "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"]
            )
            if terminal or conversion
        ],
        case(shift_terminal=0.0),
        case(invert_sigmas=True, shift=2.0),
        case(invert_sigmas=True, timesteps=[900.0, 500.0, 100.5], shift=2.0),
        case(stochastic_sampling=True, seed=1),
        case(stochastic_sampling=True, shift=3.0, use_karras_sigmas=True),
        case(timesteps=[1000.0, 700.0, 650.5, 20.0], shift=3.0),
        case(sigmas=[1.0, 0.7, 0.3, 0.05, 0.0], shift=3.0),
        case(sigmas=[1.0, 0.75, 0.5, 0.25, 0.0], use_dynamic_shifting=True, mu=0.8),
        case(start=4, shift=3.0),
    ],
    "FlowMatchHeunDiscreteScheduler": [
        *[case(steps=steps, shift=shift) for steps, shift in product([1, 2, 10], [1.0, 3.0])],
        case(num_train_timesteps=100, shift=0.5),
        case(step={"s_churn": 3.0}, seed=1),
        case(step={"s_churn": 2.0, "s_tmin": 0.1, "s_tmax": 0.8, "s_noise": 1.003}, shift=2.0),
        case(start=4),
    ],
    "UnCLIPScheduler": [
        *[
            case(steps=steps, prediction_type=prediction)
            for steps, prediction in product([2, 10, 25], ["epsilon", "sample"])
        ],
        case(variance_type="learned_range", model_channels=2),
        case(variance_type="learned_range", model_channels=2, prediction_type="sample", steps=7, seed=1),
        case(num_train_timesteps=50, steps=50),
        case(clip_sample=False, prediction_type="sample"),
        case(clip_sample_range=0.5),
        case(start=4),
    ],
    "RePaintScheduler": [
        *[
            case(steps=12, step={"jump_length": length, "jump_n_sample": times, "eta": eta})
            for length, times, eta in [(4, 3, 0.0), (3, 2, 1.0), (5, 1, 0.5), (10, 10, 0.0), (20, 3, 0.3)]
        ],
        case(steps=30, step={"jump_length": 10, "jump_n_sample": 2, "eta": 0.0}, num_train_timesteps=100),
        case(steps=7, step={"jump_length": 2, "jump_n_sample": 2, "eta": 0.0}, beta_schedule="sigmoid", seed=1),
        case(steps=7, step={"jump_length": 2, "jump_n_sample": 2, "eta": 1.0}, beta_schedule="squaredcos_cap_v2"),
        case(steps=7, step={"jump_length": 2, "jump_n_sample": 2, "eta": 0.0}, beta_schedule="scaled_linear"),
        case(steps=7, step={"jump_length": 2, "jump_n_sample": 2, "eta": 0.0}, clip_sample=False),
    ],
    "ScoreSdeVeScheduler": [
        *[
            case(steps=steps, sigma_max=2.0, correct_steps=correct)
            for steps, correct in product([3, 20], [0, 1, 3])
        ],
        case(steps=3, seed=1),
        case(steps=50, sigma_max=5.0, sigma_min=0.1, snr=0.05, sampling_eps=1e-3),
    ],
    "ScoreSdeVpScheduler": [
        case(steps=5),
        case(steps=30, seed=1),
        case(steps=100, beta_min=0.5, beta_max=5, sampling_eps=0.05),
    ],
    # not the default from 10,000 to 0.0004, where diffusers' second derivative is lost in the rounding of the sample
    "KarrasVeScheduler": [
        case(steps=2, sigma_max=3.0, sigma_min=0.5),
        *[case(steps=steps, sigma_max=1.5, sigma_min=0.1) for steps in [2, 10]],
        case(steps=10, sigma_max=1.5, sigma_min=0.1, s_churn=2, s_noise=1.0, seed=1),
        case(steps=10, sigma_max=1.5, sigma_min=0.1, s_min=0.1, s_max=1.0),
    ],
    "IPNDMScheduler": [
        *[case(steps=steps) for steps in [1, 2, 3, 4, 10, 25]],
        case(steps=4, trained_betas=[0.99, 0.8, 0.5, 0.2, 0.0]),
    ],
}


def unclip(scheduler, case, generator, model, shape):
    """Each step gets the next timestep, as in UnCLIPPipeline."""
    scheduler.set_timesteps(case["options"]["num_inference_steps"])
    timesteps = scheduler.timesteps
    start = case["options"].get("start", 0)
    x = torch.randn(shape, generator=generator)
    if start:
        x = scheduler.add_noise(x, torch.randn(shape, generator=generator), timesteps[start : start + 1])
    trajectory = [x]
    for i, t in enumerate(timesteps[start:], start):
        output = model(x, t)
        if case["model_channels"] == 2:
            output = torch.cat([output, torch.sigmoid(output)], dim=1)
        prev = timesteps[i + 1] if i + 1 < len(timesteps) else None
        x = scheduler.step(output, t, x, prev_timestep=prev, generator=generator).prev_sample
        trajectory.append(x)
    return timesteps, trajectory


def repaint(scheduler, case, generator, model, shape):
    """RePaintPipeline's loop, for an image of noise and a mask of every other pixel. Undoing a step counts as a part
    of it."""
    options = dict(case["options"]["step"])
    scheduler.eta = options.pop("eta")
    scheduler.set_timesteps(case["options"]["num_inference_steps"], **options)
    original = torch.randn(shape, generator=generator)
    mask = (torch.arange(shape[2] * shape[3]) % 2).to(torch.float32).reshape(1, 1, *shape[2:])
    x = torch.randn(shape, generator=generator)
    levels, trajectory = [], [x]
    t_last = scheduler.timesteps[0] + 1
    for t in scheduler.timesteps:
        if t < t_last:
            x = scheduler.step(model(x, t), t, x, original, mask, generator).prev_sample
            levels.append(t)
            trajectory.append(x)
        else:
            x = scheduler.undo_step(x, t_last, generator)
            trajectory[-1] = x
        t_last = t
    return levels, trajectory


def sde_ve(scheduler, case, generator, model, shape):
    """ScoreSdeVePipeline's loop, with an entry for each model call; the last is the mean."""
    steps = case["options"]["num_inference_steps"]
    scheduler.set_timesteps(steps)
    scheduler.set_sigmas(steps)
    x = torch.randn(shape, generator=generator) * scheduler.init_noise_sigma
    levels, trajectory = [], [x]
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas):
        for _ in range(scheduler.config.correct_steps):
            x = scheduler.step_correct(model(x, sigma), x, generator=generator).prev_sample
            levels.append(sigma)
            trajectory.append(x)
        output = scheduler.step_pred(model(x, sigma), t, x, generator=generator)
        x = output.prev_sample
        levels.append(sigma)
        trajectory.append(x)
    trajectory[-1] = output.prev_sample_mean
    return levels, trajectory


def sde_vp(scheduler, case, generator, model, shape):
    """All steps in order; the last is the mean."""
    scheduler.set_timesteps(case["options"]["num_inference_steps"])
    x = torch.randn(shape, generator=generator)
    trajectory = [x]
    for t in scheduler.timesteps:
        x, mean = scheduler.step_pred(model(x, t), x, t, generator=generator)
        trajectory.append(x)
    trajectory[-1] = mean
    return scheduler.timesteps, trajectory


def karras_ve(scheduler, case, generator, model, shape):
    """KarrasVePipeline's loop, with an entry for each model call: its input."""
    x = torch.randn(shape, generator=generator) * scheduler.init_noise_sigma
    scheduler.set_timesteps(case["options"]["num_inference_steps"])
    levels, trajectory = [], []
    for t in scheduler.timesteps:
        sigma = scheduler.schedule[t]
        sigma_prev = scheduler.schedule[t - 1] if t > 0 else 0
        x_hat, sigma_hat = scheduler.add_noise_to_input(x, sigma, generator=generator)
        levels.append(sigma_hat / 2)
        trajectory.append(x_hat)
        output = (sigma_hat / 2) * model((x_hat + 1) / 2, sigma_hat / 2)
        step = scheduler.step(output, sigma_hat, sigma_prev, x_hat)
        if sigma_prev != 0:
            levels.append(sigma_prev / 2)
            trajectory.append(step.prev_sample)
            output = (sigma_prev / 2) * model((step.prev_sample + 1) / 2, sigma_prev / 2)
            step = scheduler.step_correct(output, sigma_hat, sigma_prev, x_hat, step.prev_sample, step["derivative"])
        x = step.prev_sample
    trajectory.append(x)
    return levels, trajectory


LOOPS = {
    "UnCLIPScheduler": unclip,
    "RePaintScheduler": repaint,
    "ScoreSdeVeScheduler": sde_ve,
    "ScoreSdeVpScheduler": sde_vp,
    "KarrasVeScheduler": karras_ve,
}
