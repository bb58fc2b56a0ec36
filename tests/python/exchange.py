"""Exchange of checkpoints: Python opens what we save, we open what Python saved, and both draw the same images.

    python tests/python/exchange.py --kakusan target/release/kakusan

Needs torch, diffusers (0.42.1) and safetensors. tests/exchange.rs runs it where KAKUSAN_PYTHON names such a Python.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import diffusers
import torch
from diffusers import DDPMPipeline, UNet2DModel
from safetensors.torch import load_file, save_file

TINY = dict(
    sample_size=8,
    in_channels=1,
    out_channels=1,
    layers_per_block=1,
    block_out_channels=(4, 8),
    norm_num_groups=4,
    attention_head_dim=4,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)
SHAPES = {
    "plain": {},
    "google": dict(attention_head_dim=None, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6),
    "colour": dict(in_channels=3, out_channels=3),
    "resnet": dict(
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        resnet_time_scale_shift="scale_shift",
        downsample_type="resnet",
        upsample_type="resnet",
    ),
}
SAMPLERS = {"DDPMScheduler": 10, "DDIMScheduler": 7}


def python_images(pipeline, batch, steps, seed=0):
    """Python's images: f32 `[n, c, h, w]` in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    images = pipeline(batch_size=batch, num_inference_steps=steps, generator=generator, output_type="np").images
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Kakusan:
    def __init__(self, binary, place):
        self.binary, self.place = binary, place

    def run(self, *args):
        command = [self.binary, *map(str, args)]
        done = subprocess.run(command, cwd=self.place, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def images(self, model, batch, steps, *more):
        file = self.place / "images.safetensors"
        self.run("sample", "--model", model, "--batch", batch, "--steps", steps, "--save-tensor", file, *more)
        return load_file(file)["images"]


def same(ours, theirs, what):
    assert ours.shape == theirs.shape, f"{what}: {ours.shape} {theirs.shape}"
    difference = (ours - theirs).abs().max().item()
    assert difference <= 1 / 255, f"{what}: the images differ by {difference}"
    print(f"  {what}: within {difference:.1e}")


def python_opens_ours(kakusan, place):
    """Runs of every kind with a model of diffusers: trained for two steps, saved, opened by Python."""
    print("Python opens what we save")
    for name, config in {
        "ddpm": [],
        "v": ['scheduler.prediction_type="v_prediction"', "scheduler.rescale_betas_zero_snr=true"],
        "linear": ['scheduler.beta_schedule="linear"', 'scheduler.variance_type="fixed_large"'],
        "google": ['model.attention_head_dim="null"', "model.downsample_padding=0", "model.flip_sin_to_cos=false"],
    }.items():
        model = ["model.block_out_channels=[4, 8, 8]", "model.norm_num_groups=4", "model.layers_per_block=1"]
        quick = ['data.sources=["drawn"]', "data.drawn_per_class=8", "train.batch_size=8", "sample.batch_size=2"]
        settings = [*model, *quick, *NOISE, "model.attention_head_dim=4", *config]  # the last value counts
        sets = [word for setting in settings for word in ("--set", setting)]
        run = place / f"run-{name}"
        kakusan.run("train", "--config", CONFIG, "--out", run, "--max-steps", 2, *sets)
        pipeline = quiet(DDPMPipeline.from_pretrained(run))
        for sampler, steps in SAMPLERS.items():
            pipeline.scheduler = getattr(diffusers, sampler).from_config(
                json.loads((run / "scheduler/scheduler_config.json").read_text())
            )
            ours = kakusan.images(run, 3, steps, "--scheduler", sampler)
            same(ours, python_images(pipeline, 3, steps), f"{name}, {sampler}")


def python_takes_fitted_steps(kakusan, place):
    """`fit-sampler` changes nothing for Python, which can take the steps by hand, and keeps them."""
    print("Python opens fitted schedulers")
    run, name = place / "run-ddpm", "DPMSolverMultistepScheduler"
    before = kakusan.images(run, 3, 7)
    kakusan.run("fit-sampler", "--model", run, "--steps", 5, "--scheduler", name, "--fine-steps", 12, "--images", 8)
    pipeline = quiet(DDPMPipeline.from_pretrained(run))
    same(python_images(pipeline, 3, 7), before, "DDPM, which is not fitted")
    fitted = pipeline.scheduler.config["_fitted_steps"][name]["5"]["timesteps"]
    scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(timesteps=[int(timestep) for timestep in fitted])
    images = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            images = scheduler.step(pipeline.unet(images, timestep).sample, timestep, images).prev_sample
    images = (images / 2 + 0.5).clamp(0, 1)
    same(kakusan.images(run, 3, 5, "--scheduler", name), images, f"{name}, fitted")
    pipeline.save_pretrained(place / "python-fitted")
    same(kakusan.images(place / "python-fitted", 3, 5, "--scheduler", name), images, "the same, saved by Python")


def we_open_pythons(kakusan, place):
    """Folders written by Python, in every layout that occurs on the Hub."""
    print("We open what Python saved")
    for name, shape in SHAPES.items():
        torch.manual_seed(0)
        unet = UNet2DModel(**(TINY | shape)).eval()
        pipeline = quiet(DDPMPipeline(unet, diffusers.DDPMScheduler(num_train_timesteps=100)))
        theirs = python_images(pipeline, 2, 10)
        plain = place / f"python-{name}"
        pipeline.save_pretrained(plain)
        layouts = {"as saved": plain}
        for layout, arguments in {
            "bin": dict(safe_serialization=False),
            "variant": dict(variant="fp16"),
            "sharded": dict(max_shard_size="10KB"),
        }.items():
            layouts[layout] = place / f"python-{name}-{layout}"
            pipeline.save_pretrained(layouts[layout], **arguments)
        layouts["flat"] = flat = place / f"python-{name}-flat"
        shutil.copytree(plain / "unet", flat)
        shutil.copy(plain / "scheduler/scheduler_config.json", flat)
        shutil.copy(plain / "model_index.json", flat)
        layouts["old attention names"] = old = place / f"python-{name}-old"
        shutil.copytree(plain, old)
        weights = old / "unet/diffusion_pytorch_model.safetensors"
        names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

        def rename(key):
            for new, before in names.items():
                key = key.replace(f".{new}.", f".{before}.")
            return key

        save_file({rename(key): value for key, value in load_file(weights).items()}, weights, {"format": "pt"})
        for layout, folder in layouts.items():
            same(kakusan.images(folder, 2, 10), theirs, f"{name}, {layout}")

        half = place / f"python-{name}-half"
        quiet(DDPMPipeline(UNet2DModel.from_pretrained(plain / "unet").half(), pipeline.scheduler)).save_pretrained(half)
        back = quiet(DDPMPipeline.from_pretrained(half, torch_dtype=torch.float32))
        same(kakusan.images(half, 2, 10), python_images(back, 2, 10), f"{name}, half precision")


def both_fine_tune(kakusan, place):
    """We fine-tune a pipeline of Python's, with a class more and frozen parts; Python goes on from there, and we open it."""
    print("Python goes on from what we fine-tuned")
    torch.manual_seed(0)
    unet = UNet2DModel(**(TINY | dict(num_class_embeds=9)))
    theirs, run = place / "python-classes", place / "fine-tuned"
    DDPMPipeline(unet, diffusers.DDPMScheduler(num_train_timesteps=100)).save_pretrained(theirs)
    config = place / "finetune.toml"
    config.write_text(
        '[data]\nname = "mnist"\nclasses = [8, 9]\nsources = ["drawn"]\ndrawn_per_class = 8\n'
        f'[model]\nfrom = "{theirs}"\nsample_size = 28\nnum_class_embeds = 10\n'
        '[train]\nmax_steps = 2\nbatch_size = 8\nfreeze = ["down_blocks"]\n[sample]\nsteps = 5\nbatch_size = 2\n'
    )
    said = kakusan.run("train", "--config", config, "--out", run)
    assert "class_embedding.weight: row 9 is new" in said and "Frozen: down_blocks" in said, said
    unet = UNet2DModel.from_pretrained(run / "unet")
    before, after = load_file(theirs / "unet/diffusion_pytorch_model.safetensors"), unet.state_dict()
    for name, tensor in before.items():
        same_rows = torch.equal(after[name][: len(tensor)], tensor)
        assert same_rows == name.startswith("down_blocks."), name
    pipeline = quiet(DDPMPipeline.from_pretrained(run))
    optimizer = torch.optim.AdamW(pipeline.unet.parameters(), lr=1e-4)
    noise = torch.randn(4, 1, 28, 28)
    noisy = pipeline.scheduler.add_noise(torch.zeros(4, 1, 28, 28), noise, torch.full((4,), 50))
    (pipeline.unet(noisy, 50, torch.tensor([8, 9, 8, 9])).sample - noise).square().mean().backward()
    optimizer.step()
    again = place / "fine-tuned-again"
    pipeline.save_pretrained(again)
    images = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.scheduler.set_timesteps(5)
    with torch.no_grad():
        for timestep in pipeline.scheduler.timesteps:
            output = pipeline.unet(images, timestep, torch.full((3,), 9)).sample
            images = pipeline.scheduler.step(output, timestep, images).prev_sample
    ours = kakusan.images(again, 3, 5, "--scheduler", "ddim", "--class", 9)
    same(ours, (images / 2 + 0.5).clamp(0, 1), "fine-tuned by both")


def same_bytes(kakusan, place):
    """diffusers and we save the same model as the same bytes."""
    print("We save what Python saves")
    folder, ours = place / "python-plain", place / "again"
    kakusan.run("convert", folder, ours)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(ours) for path in ours.rglob("*") if path.is_file()), files
    for file in files:
        assert (folder / file).read_bytes() == (ours / file).read_bytes(), f"{file} differs"
    print(f"  {', '.join(map(str, files))}")


# In place of the configuration's velocity and Muon: the noise and Adam, as in diffusers' examples.
NOISE = [
    'train.optimizer="adam"',
    "train.learning_rate=1e-3",
    'scheduler.prediction_type="epsilon"',
    "scheduler.rescale_betas_zero_snr=false",
    'scheduler.timestep_spacing="leading"',
    "scheduler.clip_sample_range=1.0",
    "train.pixel_scale=1.0",
    "train.snr_gamma=5.0",
]
CONFIG = Path(__file__).resolve().parents[2] / "configs/ddpm-184.toml"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kakusan", type=Path, required=True)
    binary = parser.parse_args().kakusan.resolve()
    with tempfile.TemporaryDirectory() as place:
        kakusan = Kakusan(binary, Path(place))
        we_open_pythons(kakusan, Path(place))
        python_opens_ours(kakusan, Path(place))
        python_takes_fitted_steps(kakusan, Path(place))
        both_fine_tune(kakusan, Path(place))
        same_bytes(kakusan, Path(place))


if __name__ == "__main__":
    main()
