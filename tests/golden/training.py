"""Writes training.json: diffusers' learning rates, noise levels and min-SNR weights and torch's losses, for the unit
tests of crates/pipeline.

Needs torch and diffusers (0.42.1).
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3, compute_snr

out = {"lr": [], "losses": [], "zero_snr": [], "flow": [], "edm": []}

SCHEDULES = [
    (dict(lr_scheduler="constant"), {}),
    (dict(lr_scheduler="constant_with_warmup", lr_warmup_steps=37), {}),
    (dict(lr_scheduler="linear"), {}),
    (dict(lr_scheduler="linear", lr_warmup_steps=100), {}),
    (dict(lr_scheduler="cosine"), {}),
    (dict(lr_scheduler="cosine", lr_warmup_steps=100), {}),
    (dict(lr_scheduler="cosine_with_restarts", lr_warmup_steps=50), {}),
    (dict(lr_scheduler="cosine_with_restarts", lr_warmup_steps=10, lr_num_cycles=4), dict(num_cycles=4)),
    (dict(lr_scheduler="polynomial", lr_warmup_steps=20), {}),
    (dict(lr_scheduler="polynomial", lr_power=2.5), dict(power=2.5)),
    (dict(lr_scheduler="piecewise_constant", lr_step_rules="1:10,0.1:300,0.01:301,0.005"), dict(step_rules="1:10,0.1:300,0.01:301,0.005")),
]
for config, more in SCHEDULES:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=4e-4)
    warmup = config.get("lr_warmup_steps", 0)
    total = 1000
    schedule = get_scheduler(config["lr_scheduler"], optimizer, num_warmup_steps=warmup, num_training_steps=total, **more)
    rates = []
    for step in range(total + 20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    every = 7
    out["lr"].append({"config": {"learning_rate": 4e-4, **config}, "total_steps": total, "every": every, "lr": rates[::every]})

torch.manual_seed(3)
levels = torch.tensor([0, 10, 300, 700, 999])
prediction, target = torch.randn(2, 5, 2, 3, 3)
out["levels"], out["prediction"], out["target"] = levels.tolist(), prediction.flatten().tolist(), target.flatten().tolist()


def case(config, prediction_type, function):
    x = prediction.clone().requires_grad_()
    if gamma := config.get("snr_gamma"):
        snr = compute_snr(DDPMScheduler(prediction_type=prediction_type), levels)
        weights = snr.clamp(max=gamma)
        if prediction_type == "epsilon":
            weights = weights / snr
        elif prediction_type == "v_prediction":
            weights = weights / (snr + 1)
        loss = (function(x, target, reduction="none").flatten(1).mean(1) * weights).mean()
    else:
        loss = function(x, target)
    loss.backward()
    out["losses"].append({"config": config, "prediction_type": prediction_type, "loss": loss.item(), "gradient": x.grad.flatten().tolist()})


FUNCTIONS = {
    "mse": ({}, F.mse_loss),
    "l1": ({}, F.l1_loss),
    "huber": (dict(huber_delta=0.7), lambda *args, **more: F.huber_loss(*args, delta=0.7, **more)),
}
for loss, (more, function) in FUNCTIONS.items():
    case(dict(loss=loss, **more), "epsilon", function)
    for prediction_type in ["epsilon", "sample", "v_prediction"]:
        case(dict(loss=loss, snr_gamma=5.0, **more), prediction_type, function)

# targets and min-SNR weights with zero terminal SNR, where noise alone has no weight
clean, noise = torch.randn(2, 5, 2, 3, 3)
for prediction_type in ["sample", "v_prediction"]:
    config = dict(prediction_type=prediction_type, rescale_betas_zero_snr=True)
    scheduler = DDPMScheduler(**config)
    target = clean if prediction_type == "sample" else scheduler.get_velocity(clean, noise, levels)
    snr = compute_snr(scheduler, levels)
    weights = snr.clamp(max=5.0) / (snr + 1 if prediction_type == "v_prediction" else 1)
    loss = (F.mse_loss(prediction, target, reduction="none").flatten(1).mean(1) * weights).mean()
    out["zero_snr"].append({"scheduler": config, "noisy": scheduler.add_noise(clean, noise, levels).flatten().tolist(), "target": target.flatten().tolist(), "loss": loss.item()})
out["clean"], out["noise"] = clean.flatten().tolist(), noise.flatten().tolist()


def flow(config, shift, batch, seed):
    """A batch of examples/dreambooth/train_dreambooth_sd3.py, whose model halves its input."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    torch.manual_seed(seed)
    clean = torch.zeros(batch, 1, 2, 2) + 0.25
    noise = torch.randn_like(clean)
    scheme = config["weighting_scheme"]
    options = dict(logit_mean=0.0, logit_std=1.0, mode_scale=1.29) | {key: value for key, value in config.items() if key != "weighting_scheme"}
    u = compute_density_for_timestep_sampling(scheme, batch_size=batch, **options)
    indices = (u * scheduler.config.num_train_timesteps).long()
    timesteps, sigmas = scheduler.timesteps[indices], scheduler.sigmas[indices].view(-1, 1, 1, 1)
    noisy = (1.0 - sigmas) * clean + sigmas * noise
    weights = compute_loss_weighting_for_sd3(scheme, sigmas)
    loss = (weights.float() * (0.5 * noisy - (noise - clean)) ** 2).mean()
    out["flow"].append({"config": config, "shift": shift, "batch": batch, "seed": seed, "timesteps": timesteps.tolist(), "loss": loss.item()})


SCHEMES = [dict(weighting_scheme=scheme) for scheme in ["none", "sigma_sqrt", "logit_normal", "mode", "cosmap"]]
SCHEMES += [dict(weighting_scheme="logit_normal", logit_mean=-0.5, logit_std=0.7), dict(weighting_scheme="mode", mode_scale=-0.4)]
for i, config in enumerate(SCHEMES):
    for shift, batch in [(1.0, 40), (3.0, 7)]:
        flow(config, shift, batch, 10 + i)


def edm(config, sigma_data, seed):
    """The loss of table 1 in Karras et al. 2022 on the denoised images, with a linear network."""
    torch.manual_seed(seed)
    y = torch.linspace(-1, 1, 20 * 4).view(20, 1, 2, 2)
    noise = torch.randn_like(y)
    sigma = (torch.randn(20, 1, 1, 1) * config.get("p_std", 1.2) + config.get("p_mean", -1.2)).exp()
    total = sigma**2 + sigma_data**2
    c_skip, c_out, c_in, c_noise = sigma_data**2 / total, sigma * sigma_data / total.sqrt(), 1 / total.sqrt(), sigma.log() / 4
    x = y + sigma * noise
    denoised = c_skip * x + c_out * (0.3 * (c_in * x) + 0.1 * c_noise)
    loss = (total / (sigma * sigma_data) ** 2 * (denoised - y) ** 2).mean()
    out["edm"].append({"config": config, "sigma_data": sigma_data, "seed": seed, "c_noise": c_noise.flatten().tolist(), "model_input": (c_in * x).flatten().tolist(), "loss": loss.item()})


edm(dict(p_mean=-1.2, p_std=1.2), 0.5, 1)
edm(dict(p_mean=-0.4), 0.5, 2)
edm(dict(p_std=0.6), 1.0, 3)

Path(__file__).with_suffix(".json").write_text(json.dumps(out) + "\n")
