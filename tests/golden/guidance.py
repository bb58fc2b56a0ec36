"""Writes guidance.safetensors: samplings guided by a loss as in unit 2 of Hugging Face's diffusion course, for
crates/pipeline/tests/guidance.rs.

Needs torch, diffusers and safetensors. The metadata's `cases[i]` describes case `i`. `torch.manual_seed(seed)` before
the constructor gives the weights of a tiny UNet2DModel; `torch.Generator().manual_seed(seed + 1)` draws the noise to
begin with, and that of the steps. The loss is a mean over the batch, as in the course, and multiplied by `scale`.

Tensors: `i.moved` is the sample that the first gradient moved, `i.sample` the result. `rescaled.*` are diffusers' own rescaling of guidance.
"""

import copy
import inspect
import json
from pathlib import Path

import diffusers
import torch
from diffusers.guiders.guider_utils import rescale_noise_cfg
from networks.tiny_unet import tiny_unet
from safetensors.torch import save_file

BATCH, SIZE = 2, 8
COLOUR = [26, 230, 128]
UNET = tiny_unet(3)


def colour_loss(images):
    colour = torch.tensor(COLOUR)[None, :, None, None] / 255 * 2 - 1
    return (images - colour).abs().mean()


def brightness_loss(images):
    return (images.mean(dim=(1, 2, 3)) - (0.8 * 2 - 1)).abs().mean()


def image_loss(images):
    """The mean square of the difference to a picture that becomes brighter to the right."""
    ramp = torch.arange(SIZE) / SIZE * 2 - 1
    return ((images - ramp) ** 2).mean()


def mask_loss(images):
    """The colour in the left half alone."""
    left = (torch.arange(SIZE) < SIZE // 2).float()
    return colour_loss(images * left + images.detach() * (1 - left))


LOSSES = {"colour": colour_loss, "brightness": brightness_loss, "image": image_loss, "mask": mask_loss}


def predicted_image(scheduler, output, t, x):
    """What the scheduler takes the clean image to be, without going the step."""
    scheduler = copy.deepcopy(scheduler)
    if hasattr(scheduler, "convert_model_output"):
        if scheduler.step_index is None:
            scheduler._init_step_index(t)
        return scheduler.convert_model_output(output, sample=x)
    draws = "generator" in inspect.signature(scheduler.step).parameters
    return scheduler.step(output, t, x, **({"generator": torch.Generator()} if draws else {})).pred_original_sample


def sample(case):
    classes = case["guidance"] is not None
    torch.manual_seed(case["seed"])
    unet = diffusers.UNet2DModel(**UNET, num_class_embeds=4 if classes else None).eval()
    scheduler = getattr(diffusers, case["scheduler"])(**case["config"])
    scheduler.set_timesteps(case["steps"])
    generator = torch.Generator().manual_seed(case["seed"] + 1)
    x = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator) * scheduler.init_noise_sigma
    labels, none = torch.tensor([0, 2]), torch.tensor([3, 3])

    def predict(x, t):
        seen = scheduler.scale_model_input(x, t)
        if not classes:
            return unet(seen, t).sample
        scale, rescale = case["guidance"]
        with_class, without = unet(seen, t, labels).sample, unet(seen, t, none).sample
        return rescale_noise_cfg(without + scale * (with_class - without), with_class, rescale)

    moved = None
    for i, t in enumerate(scheduler.timesteps):
        guided = case["from"] <= i < case["to"]
        if case["way"] == "through":
            x = x.detach().requires_grad_()
            output = predict(x, t)
        else:
            with torch.no_grad():
                output = predict(x, t)
            x = x.detach().requires_grad_()
        if guided:
            loss = LOSSES[case["loss"]](predicted_image(scheduler, output, t, x)) * case["scale"]
            x = x.detach() - torch.autograd.grad(loss, x)[0]
            moved = x if moved is None else moved
        draws = "generator" in inspect.signature(scheduler.step).parameters
        x = scheduler.step(output.detach(), t, x.detach(), **({"generator": generator} if draws else {})).prev_sample
    return moved, x


default = {"config": {}, "loss": "colour", "scale": 40.0, "steps": 5, "from": 0, "to": 5, "guidance": None}
v_prediction = {"prediction_type": "v_prediction", "clip_sample": False}
cases = []
for way in ["through", "around"]:
    for more in [
        {"scheduler": "DDIMScheduler"},
        {"scheduler": "DDIMScheduler", "config": v_prediction, "loss": "image", "scale": 100.0},
        {"scheduler": "DDPMScheduler", "config": v_prediction, "from": 1, "to": 4},
        {"scheduler": "EulerDiscreteScheduler", "loss": "mask"},
        {"scheduler": "DPMSolverMultistepScheduler", "loss": "brightness"},
        {"scheduler": "DDIMScheduler", "config": v_prediction, "guidance": [3.0, 0.7]},
    ]:
        cases.append({**default, **more, "way": way, "seed": len(cases)})

out = {}
for i, case in enumerate(cases):
    moved, result = sample(case)
    assert torch.isfinite(result).all(), case
    out.update({f"{i}.moved": moved, f"{i}.sample": result})

generator = torch.Generator().manual_seed(99)
cfg, text = torch.randn(2, 3, 3, 4, 4, generator=generator) * torch.tensor([3.0, 1.0]).reshape(2, 1, 1, 1, 1) + 0.5
out.update({"rescaled.cfg": cfg, "rescaled.text": text})
for share in [0.0, 0.7, 1.0]:
    out[f"rescaled.{share}"] = rescale_noise_cfg(cfg, text, share)

metadata = {"cases": json.dumps(cases), "unet": json.dumps(UNET), "torch": torch.__version__, "diffusers": diffusers.__version__}
out = {name: tensor.detach().contiguous() for name, tensor in out.items()}
save_file(out, Path(__file__).with_name("guidance.safetensors"), metadata)
