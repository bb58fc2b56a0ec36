"""Writes training.json: diffusers' learning rates and min-SNR weights and torch's losses, for the unit tests of
crates/pipeline.

Needs torch and diffusers (0.42.1).
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import compute_snr

out = {"lr": [], "losses": []}

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

Path(__file__).with_suffix(".json").write_text(json.dumps(out) + "\n")
