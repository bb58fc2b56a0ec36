"""Writes editing.safetensors: images edited by diffusers' schedulers, for crates/pipeline/tests/sampling/editing.rs.

Needs torch, numpy, safetensors and diffusers (0.42.1). The model is a UNet2DModel with random weights
(`torch.manual_seed(0)`), the picture `torch.rand` of seed 7, and the mask repaints the right half of it.

`start.i` and `blend.i` are case i of the metadata: two images drawn from the picture by the steps of diffusers' img2img
pipelines, and by those of its inpainting pipelines, which put the known part back after each step. `repaint` follows
RePaintPipeline. `noise` and `again` are DDIM's inversion of the picture and what DDIM draws from it. `slerp.i` are
numpy's interpolations of the metadata's angles and positions.
"""

import json
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, RePaintScheduler, UNet2DModel
from networks.tiny_unet import tiny_unet
from safetensors.torch import save_file

SHAPE = (2, 1, 8, 8)
CASES = [
    {"class": "DDPMScheduler", "config": {}, "steps": 12, "strength": 0.5},
    {"class": "DDIMScheduler", "config": {}, "steps": 12, "strength": 0.6},
    {"class": "DDIMScheduler", "config": {"timestep_spacing": "trailing"}, "steps": 7, "strength": 1.0, "eta": 0.5},
    {"class": "EulerDiscreteScheduler", "config": {}, "steps": 10, "strength": 0.58},
    {"class": "EulerAncestralDiscreteScheduler", "config": {}, "steps": 10, "strength": 0.4},
    {"class": "HeunDiscreteScheduler", "config": {}, "steps": 8, "strength": 0.5},
    {"class": "HeunDiscreteScheduler", "config": {"use_karras_sigmas": True}, "steps": 6, "strength": 1.0},
    {"class": "KDPM2DiscreteScheduler", "config": {}, "steps": 8, "strength": 0.7},
    {"class": "KDPM2AncestralDiscreteScheduler", "config": {}, "steps": 8, "strength": 0.6},
    {"class": "LMSDiscreteScheduler", "config": {}, "steps": 9, "strength": 0.5},
    {"class": "DPMSolverMultistepScheduler", "config": {}, "steps": 10, "strength": 0.7},
    {"class": "DPMSolverMultistepScheduler", "config": {"solver_order": 3, "use_karras_sigmas": True}, "steps": 9, "strength": 0.8},
    {"class": "DPMSolverMultistepScheduler", "config": {"algorithm_type": "sde-dpmsolver++"}, "steps": 8, "strength": 0.6},
    {"class": "UniPCMultistepScheduler", "config": {}, "steps": 9, "strength": 0.6},
    {"class": "DEISMultistepScheduler", "config": {}, "steps": 9, "strength": 0.6},
    {"class": "FlowMatchEulerDiscreteScheduler", "config": {"shift": 2.0}, "steps": 8, "strength": 0.6},
]
SLERPS = [[90, 0.5], [60, 0.0], [60, 0.3], [120, 0.75], [179, 0.5], [1, 0.4], [60, 1.0]]

torch.manual_seed(0)
model = UNet2DModel(**tiny_unet(1)).eval()
picture = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(7)) * 2 - 1
mask = torch.zeros(1, 1, 8, 8)
mask[..., 4:] = 1


def noised(scheduler, images, noise, timestep):
    if hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(images, timestep, noise)
    return scheduler.add_noise(images, noise, timestep)


def draw(case, blend):
    """`get_timesteps`, `prepare_latents` and the loop of the img2img and inpainting pipelines of Stable Diffusion."""
    scheduler = getattr(diffusers, case["class"])(**case["config"])
    steps = case["steps"]
    scheduler.set_timesteps(steps)
    init_timestep = min(int(steps * case["strength"]), steps)
    t_start = max(steps - init_timestep, 0)
    timesteps = scheduler.timesteps[t_start * scheduler.order :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(t_start * scheduler.order)
    generator = torch.Generator().manual_seed(3)
    images = picture.repeat(2, 1, 1, 1)
    noise = torch.randn(SHAPE, generator=generator)
    x = noised(scheduler, images, noise, timesteps[:1])
    takes = scheduler.step.__code__.co_varnames[: scheduler.step.__code__.co_argcount]
    options = {"generator": generator} if "generator" in takes else {}
    options |= {"eta": case["eta"]} if "eta" in case else {}
    for i, t in enumerate(timesteps):
        model_input = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(model(model_input, t).sample, t, x, **options).prev_sample
        if blend:
            known = images
            if not getattr(scheduler, "state_in_first_order", True) and hasattr(scheduler, "sigmas_interpol"):
                # within a step of KDPM2 the sample is halfway; `add_noise` takes the level where the step ends
                index = scheduler.step_index - ("Ancestral" in case["class"])
                known = images + scheduler.sigmas_interpol[index] * noise
            elif i < len(timesteps) - 1:
                known = noised(scheduler, images, noise, timesteps[i + 1 : i + 2])
            x = (1 - mask) * known + mask * x
    return x


def repaint():
    """`RePaintPipeline.__call__`: its mask is 1 where the picture is kept."""
    scheduler = RePaintScheduler()
    scheduler.set_timesteps(10, 3, 2)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(picture.shape, generator=generator)
    t_last = scheduler.timesteps[0] + 1
    for t in scheduler.timesteps:
        if t < t_last:
            x = scheduler.step(model(x, t).sample, t, x, picture, 1 - mask, generator).prev_sample
        else:
            x = scheduler.undo_step(x, t_last, generator)
        t_last = t
    return x


def invert():
    config = {"clip_sample": False}
    x = picture
    there, here = DDIMInverseScheduler(**config), DDIMScheduler(**config)
    found = []
    for scheduler in (there, here):
        scheduler.set_timesteps(10)
        for t in scheduler.timesteps:
            x = scheduler.step(model(x, t).sample, t, x).prev_sample
        found.append(x)
    return found


def slerp(t, v0, v1, DOT_THRESHOLD=0.9995):
    """As everywhere for Stable Diffusion, in float64."""
    v0, v1 = v0.astype(np.float64), v1.astype(np.float64)
    dot = np.sum(v0 * v1 / (np.linalg.norm(v0) * np.linalg.norm(v1)))
    if np.abs(dot) > DOT_THRESHOLD:
        return (1 - t) * v0 + t * v1
    theta_0 = np.arccos(dot)
    sin_theta_0 = np.sin(theta_0)
    theta_t = theta_0 * t
    sin_theta_t = np.sin(theta_t)
    return np.sin(theta_0 - theta_t) / sin_theta_0 * v0 + sin_theta_t / sin_theta_0 * v1


out = {}
with torch.no_grad():
    for i, case in enumerate(CASES):
        out[f"start.{i}"], out[f"blend.{i}"] = draw(case, False), draw(case, True)
    out["repaint"] = repaint()
    out["noise"], out["again"] = invert()
a, side = torch.randn(2, 16, generator=torch.Generator().manual_seed(1)).double().numpy()
side -= a * (a @ side) / (a @ a)
for i, (angle, t) in enumerate(SLERPS):
    b = 1.5 * (np.cos(np.radians(angle)) * a + np.sin(np.radians(angle)) * side * np.linalg.norm(a) / np.linalg.norm(side))
    v0, v1 = a.astype(np.float32), b.astype(np.float32)
    out[f"slerp.{i}"] = torch.from_numpy(np.stack([v0, v1, slerp(t, v0, v1).astype(np.float32)]))
assert all(tensor.isfinite().all() for tensor in out.values())
metadata = {"torch": torch.__version__, "diffusers": diffusers.__version__, "cases": json.dumps(CASES), "slerps": json.dumps(SLERPS)}
save_file({key: value.float().contiguous() for key, value in out.items()}, Path(__file__).with_suffix(".safetensors"), metadata=metadata)
