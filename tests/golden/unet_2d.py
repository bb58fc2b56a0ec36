"""Writes unet_2d.safetensors: UNet2DModel of diffusers in many configurations, for crates/models/tests/unet_2d.rs.

Needs torch, diffusers and safetensors. The metadata's `cases[i]` describes case `i`: the configuration, the seed of the
weights (`torch.manual_seed(seed)` before the constructor), the batch and size, the timesteps (`levels`), the labels,
and the SHA-256 of all weights in the order of their names, each after its name. `torch.Generator().manual_seed(seed +
1)` draws the images, then the labels if they are vectors, then the factors of the sum that is differentiated. The last
two cases are networks in use, large enough for every method of convolution; the largest has no digest.

Tensors: `i.y` is the output. `i.grads` has, for each parameter with a gradient in the order of their names, the first,
the middle and the last element, the sum, the norm and the largest magnitude.
"""

import hashlib
import inspect
import json
import random
from pathlib import Path

import diffusers
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

pick = random.Random(184)
DOWN = ["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"]
UP = ["AttnUpBlock2D", "UpBlock2D", "ResnetUpsampleBlock2D"]


def config(index):
    levels = pick.choice([1, 2, 2, 3])
    skip_down, skip_up, attend = index % 3 == 1, index % 5 == 2, index % 2
    unusual = not (skip_down or skip_up) and index % 7 == 3
    widths = [32, 64] if (skip_down or skip_up) and attend else [6, 9, 15] if unusual else [4, 8, 16, 32]
    channels = sorted(pick.choice(widths) for _ in range(levels))
    downs = [pick.choice(DOWN) for _ in range(levels)]
    ups = [pick.choice(UP) for _ in range(levels)]
    if skip_down:
        first = levels if skip_up else pick.randint(1, levels)
        downs[:first] = [pick.choice(["AttnSkipDownBlock2D", "SkipDownBlock2D"]) if attend else "SkipDownBlock2D" for _ in range(first)]
    if skip_up:
        first = 0 if skip_down else pick.randint(0, levels - 1)
        ups[first:] = [pick.choice(["AttnSkipUpBlock2D", "SkipUpBlock2D"]) if attend else "SkipUpBlock2D" for _ in ups[first:]]
    all_skip = all("Skip" in block for block in downs + ups)
    if index % 11 == 4:
        downs, ups = ["UNetRes" + block for block in downs], ["UNetRes" + block for block in ups]
    time = pick.choice(["positional", "positional", "fourier", "learned"])
    classes = pick.choice([None, None, "table", "timestep", "identity"])
    return {
        "sample_size": pick.choice([None, 8, [8, 16]]),
        "in_channels": 3 if skip_down else pick.choice([1, 3, 4]),
        "out_channels": 3 if skip_up else pick.choice([1, 3, 6]),
        "center_input_sample": pick.random() < 0.3,
        "time_embedding_type": time,
        "time_embedding_dim": pick.choice([None, None, 20]),
        "freq_shift": pick.choice([0, 1]),
        "flip_sin_to_cos": pick.random() < 0.5,
        "down_block_types": downs,
        "mid_block_type": pick.choice(["UNetMidBlock2D", "UNetMidBlock2D", "UNetMidBlock2D", None]),
        "up_block_types": ups,
        "block_out_channels": channels,
        "layers_per_block": pick.choice([1, 1, 2]),
        "mid_block_scale_factor": pick.choice([1, 1, 1.4142135623730951, 2.5]),
        "downsample_padding": pick.choice([0, 1]),
        "downsample_type": pick.choice(["conv", "resnet"]),
        "upsample_type": pick.choice(["conv", "resnet"]),
        "dropout": pick.choice([0.0, 0.1]),
        "act_fn": pick.choice(["silu", "silu", "silu", "swish", "mish", "gelu", "relu"]),
        "attention_head_dim": pick.choice([None, 3, 4]),
        "norm_num_groups": None if all_skip else 3 if unusual else pick.choice([1, 2, 4]),
        "attn_norm_num_groups": pick.choice([None, None, 1]),
        "norm_eps": pick.choice([1e-5, 1e-6]),
        "resnet_time_scale_shift": pick.choice(["default", "default", "scale_shift"]),
        "add_attention": pick.random() < 0.8,
        "class_embed_type": None if classes == "table" else classes,
        "num_class_embeds": 10 if classes == "table" else None,
        "num_train_timesteps": 50 if time == "learned" else None,
    }


def sha256(tensors):
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].detach().numpy().tobytes())
    return digest.hexdigest()


course = {
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [32, 64, 64],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
cifar10 = {
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "norm_eps": 1e-6,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "downsample_padding": 0,
    "attention_head_dim": None,
}
in_use = {48: (course, 2, [28, 28]), 49: (cifar10, 1, [32, 32])}

out, cases, seen = {}, [], set()
for index in range(50):
    fields, batch, size = in_use.get(index) or (config(index), pick.choice([1, 2, 3]), pick.choice([[8, 8], [16, 8], [4, 12]]))
    fields = {**inspect.signature(UNet2DModel.__init__).parameters, **fields}
    fields = {key: getattr(value, "default", value) for key, value in fields.items() if key != "self"}
    seed = index
    kind = fields["time_embedding_type"]
    number = {"learned": lambda: pick.randrange(50), "fourier": lambda: round(pick.uniform(0.01, 50), 3)}.get(
        kind, lambda: pick.choice([pick.randrange(1000), round(pick.random(), 3)])
    )
    levels = [number() for _ in range(batch)]
    labels = None
    if fields["num_class_embeds"]:
        labels = [pick.randrange(10) for _ in range(batch)]
    elif fields["class_embed_type"] == "timestep":
        labels = [pick.randrange(1, 50) for _ in range(batch)]

    torch.manual_seed(seed)
    model = UNet2DModel(**fields).eval()
    weights = sha256(dict(model.named_parameters())) if index < 49 else None
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(batch, fields["in_channels"], *size, generator=generator)
    given = labels if labels is None else torch.tensor(labels)
    if fields["class_embed_type"] == "identity":
        given = torch.randn(batch, model.time_embedding.linear_2.out_features, generator=generator)
    timesteps = torch.tensor(levels) if all(isinstance(level, int) for level in levels) else torch.tensor(levels, dtype=torch.float32)
    y = model(x, timesteps, given).sample
    (y * torch.randn(y.shape, generator=generator)).sum().backward()

    rows = []
    for name, weight in sorted(model.named_parameters()):
        if weight.requires_grad:
            grad = weight.grad.flatten()
            parts = [grad[0], grad[len(grad) // 2], grad[-1], grad.double().sum(), grad.double().norm(), grad.abs().max()]
            rows.append(torch.tensor([float(part) for part in parts]))
    out[f"{index}.y"], out[f"{index}.grads"] = y.detach(), torch.stack(rows)
    cases.append({"config": fields, "seed": seed, "batch": batch, "size": size, "levels": levels, "labels": labels, "sha256": weights})
    for key, value in fields.items():
        seen |= {(key, str(one)) for one in (value if isinstance(value, list) else [value])}

for wanted in ["SkipDownBlock2D", "AttnSkipDownBlock2D"] + DOWN:
    assert ("down_block_types", wanted) in seen, wanted
for wanted in ["SkipUpBlock2D", "AttnSkipUpBlock2D"] + UP:
    assert ("up_block_types", wanted) in seen, wanted
assert any(value.startswith("UNetRes") for _, value in seen) and ("norm_num_groups", "None") in seen
assert all(("act_fn", value) in seen for value in ["silu", "swish", "mish", "gelu", "relu"])
assert all((key, value) in seen for key, value in [("class_embed_type", "identity"), ("class_embed_type", "timestep"), ("num_class_embeds", "10")])

metadata = {"torch": torch.__version__, "diffusers": diffusers.__version__, "cases": json.dumps(cases, separators=(",", ":"))}
save_file({key: value.contiguous() for key, value in out.items()}, Path(__file__).with_suffix(".safetensors"), metadata=metadata)
