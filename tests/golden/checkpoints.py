"""Tiny checkpoints in every layout that diffusers writes or reads, each written by Python's own libraries.

    checkpoints.py          writes the folder `checkpoints` next to this script

One model of 119 parameters with an attention block is enough: the tests check names, offsets and types of tensors.
`expected.safetensors` holds its values, and those of `views.bin`, as contiguous f32.
"""

import io
import json
import os
import pathlib
import pickle
import shutil
import zipfile

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from safetensors.torch import save_file
from torch import nn

HERE = pathlib.Path(__file__).parent / "checkpoints"


class Attention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.group_norm = nn.GroupNorm(1, channels)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])


class Tiny(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, channels: int = 3, scale: float = 1.0):
        super().__init__()
        self.conv_in = nn.Conv2d(2, channels, 3)
        self.attentions = nn.ModuleList([Attention(channels)])
        self.a_last = nn.Linear(channels, 2)


def fill(model):
    """Values that float16 and bfloat16 represent exactly, so that one set of numbers serves all types."""
    with torch.no_grad():
        at = 0
        for parameter in model.parameters():
            values = torch.arange(at, at + parameter.numel(), dtype=torch.float32)
            parameter.copy_(((values * 37) % 251 - 125).reshape(parameter.shape) / 16)
            at += parameter.numel()
    return model


def old_names(state):
    pairs = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in pairs.items():
        state = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in state.items()}
    return state


def zip_of(pickled):
    """An archive as torch.save lays it out, around a pickle of our own."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in [("data.pkl", pickled), ("byteorder", b"little"), ("version", b"3\n")]:
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    return out.getvalue()


class Runs:
    def __reduce__(self):
        return os.system, ("touch executed",)


def names_in_order():
    """The names of the tensors in the state_dicts of three UNet2DModels, which together have every kind of tensor."""
    common = dict(sample_size=8, layers_per_block=1, attention_head_dim=8)
    attention = dict(
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(4, 8),
        norm_num_groups=4,
        num_class_embeds=3,
        time_embedding_type="learned",
        num_train_timesteps=10,
    )
    resnet = dict(
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        block_out_channels=(4, 8),
        norm_num_groups=4,
        class_embed_type="timestep",
        downsample_type="resnet",
        upsample_type="resnet",
    )
    skip = dict(
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"),
        block_out_channels=(32, 64),
        norm_num_groups=None,
        time_embedding_type="fourier",
    )
    return [list(UNet2DModel(**common, **config).state_dict()) for config in (attention, resnet, skip)]


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    model = fill(Tiny())
    state = model.state_dict()
    expected = {name: tensor.contiguous() for name, tensor in state.items()}

    model.save_pretrained(HERE / "plain")
    model.save_pretrained(HERE / "sharded", max_shard_size="0.2KB")
    model.save_pretrained(HERE / "bin", safe_serialization=False)
    model.save_pretrained(HERE / "bin_sharded", safe_serialization=False, max_shard_size="0.2KB")
    for dtype, variant in [(torch.float16, "fp16"), (torch.bfloat16, "bf16")]:
        fill(Tiny()).to(dtype).save_pretrained(HERE / variant, variant=variant)
    half = fill(Tiny()).half()
    half.save_pretrained(HERE / "sharded_fp16", variant="fp16", max_shard_size="0.2KB")
    # as diffusers before 0.32 named the same files
    legacy = HERE / "sharded_fp16_legacy"
    shutil.copytree(HERE / "sharded_fp16", legacy)
    stem = "diffusion_pytorch_model"
    index = (legacy / f"{stem}.safetensors.index.fp16.json").read_text()
    for shard in sorted(legacy.glob("*-of-*")):
        number = shard.name.removeprefix(f"{stem}.fp16").removesuffix(".safetensors")
        index = index.replace(shard.name, f"{stem}{number}.fp16.safetensors")
        shard.rename(legacy / f"{stem}{number}.fp16.safetensors")
    (legacy / f"{stem}.safetensors.index.fp16.json").unlink()
    (legacy / f"{stem}.safetensors.fp16.index.json").write_text(index)

    (HERE / "old_names").mkdir()
    torch.save(old_names(dict(state)), HERE / "old_names" / f"{stem}.bin")
    torch.save(state, HERE / "torch_1_5.bin", _use_new_zipfile_serialization=False)

    base = torch.arange(24.0).reshape(2, 3, 4)
    views = {
        "transposed": base.permute(2, 0, 1),
        "row": base[1, 2],
        "every_second": base[:, :, ::2],
        "parameter": nn.Parameter(torch.tensor([0.5, -0.25])),
        "scalar": torch.tensor(7.5),
        "empty": torch.zeros(0, 3),
        "double": torch.tensor([1.5, -2.0], dtype=torch.float64),
        "half": torch.tensor([1.5, 65504.0], dtype=torch.float16),
        "bfloat": torch.tensor([1.5, 2.0**100], dtype=torch.bfloat16),
    }
    torch.save(views, HERE / "views.bin")
    expected |= {f"views.{name}": tensor.detach().float().contiguous().clone() for name, tensor in views.items()}
    save_file(expected, HERE / "expected.safetensors")

    torch.save({"a": torch.arange(3), "b": torch.zeros(2)}, HERE / "integers.bin")
    torch.save({"epoch": 3, "model": {"a": torch.zeros(1)}}, HERE / "nested.bin")
    torch.save({"a": torch.zeros(2).expand(3, 2)}, HERE / "expanded.bin")
    (HERE / "names.json").write_text(json.dumps(names_in_order(), indent=0) + "\n")
    (HERE / "executes.bin").write_bytes(zip_of(pickle.dumps({"a": Runs()}, protocol=2)))
    (HERE / "executes_torch_1_5.bin").write_bytes(
        (HERE / "torch_1_5.bin").read_bytes()[:15] + pickle.dumps(Runs(), protocol=2)
    )


if __name__ == "__main__":
    main()
