"""Writes optim.safetensors: PyTorch's AdamW, SGD, Muon and clipping, diffusers' EMAModel and EDM2's averages, for
crates/ops/tests/optim.rs.

Needs torch, safetensors and diffusers (0.42.1). The gradients are not saved: the test draws them again from the same
seeds.
"""

from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file

STEPS = 1000
SAVED = (1, 2, 10, 100, 500, 1000)
SHAPES = [(37, 5), (3,), (16, 2)]
out = {}


def start(name):
    torch.manual_seed(7)
    params = [torch.randn(shape).requires_grad_() for shape in SHAPES]
    out.update({f"{name}.{i}.start": p.detach().clone() for i, p in enumerate(params)})
    return params


def train(name, weight_decay, ema):
    params = start(name)
    adam = torch.optim.AdamW(params, lr=0.0, betas=(0.95, 0.999), weight_decay=weight_decay)
    ema = EMAModel(params, **ema)
    norms = []
    for step in range(1, STEPS + 1):
        # the learning rate warms up; the gradients grow and shrink, so that some are clipped and others are not
        adam.param_groups[0]["lr"] = 3e-3 * min(step / 100, 1.0)
        torch.manual_seed(step)
        for p in params:
            p.grad = torch.randn(p.shape) * 2.0 ** (step % 7 - 6)
        norms.append(torch.nn.utils.clip_grad_norm_(params, 1.0))
        adam.step()
        ema.step(params)
        if step in SAVED:
            for i, (p, shadow) in enumerate(zip(params, ema.shadow_params)):
                out.update({f"{name}.{i}.param.{step}": p.detach().clone(), f"{name}.{i}.ema.{step}": shadow.clone()})
    out[f"{name}.norms"] = torch.stack(norms)
    for i, p in enumerate(params):
        out[f"{name}.{i}.exp_avg"] = adam.state[p]["exp_avg"]
        out[f"{name}.{i}.exp_avg_sq"] = adam.state[p]["exp_avg_sq"]


WARMUP = dict(decay=0.99, use_ema_warmup=True, inv_gamma=2.0, power=0.75, update_after_step=20, min_decay=0.3)
train("plain", 0.01, dict(decay=0.995))
train("warmup", 0.1, WARMUP)


def sgd(name, **settings):
    params = start(name)
    sgd = torch.optim.SGD(params, lr=0.0, **settings)
    for step in range(1, STEPS + 1):
        sgd.param_groups[0]["lr"] = 3e-3 * min(step / 100, 1.0)
        torch.manual_seed(step)
        for p in params:
            p.grad = torch.randn(p.shape) * 2.0 ** (step % 7 - 6)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        sgd.step()
        if step in SAVED:
            out.update({f"{name}.{i}.param.{step}": p.detach().clone() for i, p in enumerate(params)})
    for i, p in enumerate(params):
        if settings.get("momentum"):
            out[f"{name}.{i}.momentum_buffer"] = sgd.state[p]["momentum_buffer"]


sgd("sgd")
sgd("momentum", momentum=0.9, weight_decay=0.01)


# Muon: torch's own computes in bfloat16, which is checked against the same steps in f64


def orthogonal(matrix):
    x = matrix.flatten(1).double()
    turned = x.shape[0] > x.shape[1]
    x = x.T if turned else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if turned else x).reshape(matrix.shape)


MATRICES = [(24, 10), (9, 16), (12, 8, 3, 3)]
torch.manual_seed(9)
params = [torch.randn(shape, dtype=torch.float64) for shape in MATRICES]
out.update({f"muon.{i}.start": p.float() for i, p in enumerate(params)})
params = [p.float().double() for p in params]
theirs = [p.float().flatten(1).clone().requires_grad_() for p in params]
muon = torch.optim.Muon(theirs, lr=0.0, weight_decay=0.05, momentum=0.9, adjust_lr_fn="match_rms_adamw")
means = [torch.zeros_like(p) for p in params]
for step in range(1, 101):
    lr = muon.param_groups[0]["lr"] = 0.02 * min(step / 10, 1.0)
    torch.manual_seed(step)
    for p, mean, their in zip(params, means, theirs):
        grad = torch.randn(p.shape).double() * 2.0 ** (step % 7 - 6)
        their.grad = grad.float().flatten(1)
        mean.lerp_(grad, 0.1)
        rows, columns = their.shape
        p.mul_(1 - lr * 0.05).sub_(orthogonal(grad.lerp(mean, 0.9)), alpha=lr * 0.2 * max(rows, columns) ** 0.5)
    muon.step()
    for i, (p, their) in enumerate(zip(params, theirs)):
        apart = ((p.flatten(1) - their).norm() / (p.flatten(1)).norm()).item()
        assert apart < 0.01, (step, i, apart)
        if step in SAVED:
            out[f"muon.{i}.param.{step}"] = p.float()
out.update({f"muon.{i}.momentum_buffer": mean.float() for i, mean in enumerate(means)})

for name, ema in {"plain": dict(), "late": dict(update_after_step=5, min_decay=0.25), "warmup": WARMUP}.items():
    ema = EMAModel([], **ema)
    out[f"decay.{name}"] = torch.tensor([ema.get_decay(step) for step in [*range(60), 10**3, 10**5, 10**7]], dtype=torch.float64)


# power function averages (Karras et al. 2024, section 3 and appendix C)


def exponent(sigma_rel):
    """The largest root of sigma^2 (g + 2)^2 (g + 3) = g + 1."""
    s = sigma_rel**-2.0
    return np.roots([1.0, 7.0, 16.0 - s, 12.0 - s]).real.max()


def profiles_product(a, b):
    """The integral over time of two profiles (g + 1) t^g / end^(g + 1), in closed form."""
    (a_end, a_width), (b_end, b_width) = a, b
    g, h = exponent(a_width), exponent(b_width)
    first = min(a_end, b_end)
    return (g + 1) * (h + 1) / (g + h + 1) * first ** (g + h + 1) / (a_end ** (g + 1) * b_end ** (h + 1))


WIDTHS, TIMES, WANTED = [0.05, 0.1], [0.25, 0.5, 0.75, 1.0], [0.03, 0.05, 0.075, 0.15, 0.25]
known = [(time, width) for time in TIMES for width in WIDTHS]
matrix = np.array([[profiles_product(a, b) for b in known] for a in known])
fits = [np.linalg.solve(matrix, [profiles_product(a, (1.0, width)) for a in known]) for width in WANTED]
out["power.wanted"] = torch.tensor(WANTED, dtype=torch.float64)
out["power.weights"] = torch.tensor(np.array([fit / fit.sum() for fit in fits]))

# how far they are from what is wanted, by the midpoint rule
t = (np.arange(200_000) + 0.5) / 200_000
profile = lambda end, width: np.where(t < end, (exponent(width) + 1) / end * (t / end) ** exponent(width), 0.0)
mixed = [sum(x * profile(*a) for x, a in zip(fit / fit.sum(), known)) for fit in fits]
exact = [profile(1.0, width) for width in WANTED]
errors = [np.sqrt(((a - b) ** 2).mean() / (b**2).mean()) for a, b in zip(mixed, exact)]
out["power.errors"] = torch.tensor(errors, dtype=torch.float64)
decays = [[(1 - 1 / step) ** (exponent(width) + 1) for step in (1, 2, 10, 1000, 10**6)] for width in WANTED]
out["power.decays"] = torch.tensor(decays, dtype=torch.float64)

# clipping of gradients that are not finite
for name, special in {"nan": float("nan"), "inf": float("inf")}.items():
    p = torch.zeros(3).requires_grad_()
    p.grad = torch.tensor([1.0, special, -0.5])
    out[f"clip.{name}.norm"] = torch.nn.utils.clip_grad_norm_([p], 1.0)
    out[f"clip.{name}.grad"] = p.grad

metadata = {"torch": torch.__version__, "diffusers": diffusers.__version__}
save_file({key: value.contiguous().clone() for key, value in out.items()}, Path(__file__).with_suffix(".safetensors"), metadata)
