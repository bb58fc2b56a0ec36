"""Writes unet-training.safetensors: the first losses of configs/ddpm-184.toml and configs/184-unet2d.toml in PyTorch.

    unet_training.py --mnist DIR

DIR holds MNIST's training split as published (gzipped IDX). Needs torch, safetensors and diffusers (0.42.1). The draws
come in the order of diffusers' training scripts (noise, then timesteps) and of the tutorial (amounts, then noise).
"""

import argparse
import pathlib

import diffusers
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from tutorial import corrupt, load_images

STEPS = {"ddpm": 100, "mix": 10}
BATCH_SIZE = {"ddpm": 64, "mix": 128}
EPOCHS = 5
PIXEL_SCALE = 1.1


def losses(images, kind):
    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", rescale_betas_zero_snr=True, prediction_type="v_prediction"
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    steps = EPOCHS * -(-len(images) // BATCH_SIZE[kind])
    schedule = get_cosine_schedule_with_warmup(optimizer, 100, steps) if kind == "ddpm" else None
    for indices in DataLoader(range(len(images)), batch_size=BATCH_SIZE[kind], shuffle=True):
        x = images[indices]
        if kind == "ddpm":
            x = PIXEL_SCALE * (x * 2 - 1)
            noise = torch.randn(x.shape)
            timesteps = torch.randint(0, 1000, (len(x),))
            prediction = net(scheduler.add_noise(x, noise, timesteps), timesteps).sample
            loss = F.mse_loss(prediction, scheduler.get_velocity(x, noise, timesteps))
        else:
            amount = torch.rand(len(x))
            noise = torch.rand(x.shape)
            loss = F.mse_loss(net(corrupt(x, noise, amount), 0).sample, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if schedule:
            schedule.step()
        yield loss.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=pathlib.Path, required=True)
    images = load_images(parser.parse_args().mnist, [1, 8, 4])
    out = {}
    for kind, steps in STEPS.items():
        out[kind] = torch.tensor([loss for _, loss in zip(range(steps), losses(images, kind))])
        print(f"{kind}: {out[kind][:3].tolist()}")
    metadata = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    save_file(out, pathlib.Path(__file__).with_name("unet-training.safetensors"), metadata)


if __name__ == "__main__":
    main()
