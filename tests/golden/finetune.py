"""Writes finetune/: a tiny pretrained pipeline, saved by diffusers, and its fine-tuning in PyTorch.

    finetune.py          writes the folder `finetune` next to this script

Three fine-tunings of the same pipeline, for crates/pipeline/tests/finetune.rs: the loop of the diffusion course (unit
2), whose gradients are summed over two batches; more classes and frozen parts; images of three channels. Needs torch,
safetensors and diffusers (0.42.1).
"""

import pathlib
import shutil

import diffusers
import torch
import torch.nn.functional as F
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from networks.tiny_unet import tiny_unet
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

HERE = pathlib.Path(__file__).with_name("finetune")
BATCH_SIZE, EPOCHS, SEED = 4, 2, 3


def save_pretrained():
    """A network that has taken a few steps, so that no tensor is as it was initialised."""
    torch.manual_seed(0)
    unet = UNet2DModel(**tiny_unet(1, norm_num_groups=2, attention_head_dim=4, num_class_embeds=2))
    optimizer = torch.optim.Adam(unet.parameters(), lr=1e-3)
    for _ in range(20):
        images = torch.randn(8, 1, 8, 8)
        loss = F.mse_loss(unet(images, torch.randint(0, 1000, (8,)), torch.randint(0, 2, (8,))).sample, images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    shutil.rmtree(HERE, ignore_errors=True)
    DDPMPipeline(unet, DDPMScheduler(beta_schedule="squaredcos_cap_v2")).save_pretrained(HERE)


def images_of(count, channels, classes):
    """Blobs of a size that depends on the class, as bytes, and their classes."""
    generator = torch.Generator().manual_seed(channels)
    at = torch.arange(8)
    labels = torch.arange(count) % classes
    images = torch.zeros(count, channels, 8, 8, dtype=torch.uint8)
    for i in range(count):
        for channel in range(channels):
            y, x = torch.rand(2, generator=generator) * 8
            blob = torch.exp(-((at[:, None] - y) ** 2 + (at[None] - x) ** 2) / (2 + 2 * labels[i]))
            images[i, channel] = (255 * blob).to(torch.uint8)
    return images, labels


def train(unet, scheduler, optimizer, images, labels, accumulation=1):
    """The course's loop. Its losses, one for each batch."""
    clean = images / 255.0 * 2 - 1
    losses = []
    for _ in range(EPOCHS):
        for step, indices in enumerate(DataLoader(range(len(clean)), batch_size=BATCH_SIZE, shuffle=True)):
            clean_images = clean[indices]
            noise = torch.randn(clean_images.shape)
            bs = clean_images.shape[0]
            timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (bs,)).long()
            noisy_images = scheduler.add_noise(clean_images, noise, timesteps)
            noise_pred = unet(noisy_images, timesteps, labels[indices], return_dict=False)[0]
            loss = F.mse_loss(noise_pred, noise)
            losses.append(loss.item())
            loss.backward()
            if (step + 1) % accumulation == 0:
                optimizer.step()
                optimizer.zero_grad()
    return torch.tensor(losses)


def course(out):
    pipeline = DDPMPipeline.from_pretrained(HERE)
    images, labels = images_of(32, 1, 2)
    torch.manual_seed(SEED)
    optimizer = torch.optim.AdamW(pipeline.unet.parameters(), lr=1e-3)
    losses = train(pipeline.unet, pipeline.scheduler, optimizer, images, labels, accumulation=2)
    out |= {"course.images": images, "course.losses": losses}
    out |= {f"course.{name}": p.detach().clone() for name, p in chosen(pipeline.unet)}


def classes(out):
    """Two classes more, whose embeddings are drawn from the seed; the way down and the embedding of time are frozen."""
    pipeline = DDPMPipeline.from_pretrained(HERE)
    images, labels = images_of(24, 1, 4)
    torch.manual_seed(SEED)
    known = pipeline.unet.class_embedding.weight.detach()
    new = nn.Embedding(2, known.shape[1]).weight.detach()
    pipeline.unet.class_embedding = nn.Embedding.from_pretrained(torch.cat([known, new]), freeze=False)
    for part in (pipeline.unet.down_blocks, pipeline.unet.time_embedding):
        part.requires_grad_(False)
    trained = [p for p in pipeline.unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.5)
    losses = train(pipeline.unet, pipeline.scheduler, optimizer, images, labels)
    out |= {"classes.images": images, "classes.losses": losses}
    out |= {f"classes.{name}": p.detach().clone() for name, p in chosen(pipeline.unet)}


def ends(out):
    """Images in colour: the first and the last convolution are drawn from the seed, except for a bias that fits."""
    pipeline = DDPMPipeline.from_pretrained(HERE)
    images, labels = images_of(24, 3, 2)
    unet, scheduler = pipeline.unet, pipeline.scheduler
    torch.manual_seed(SEED)
    kept = unet.conv_in.bias.detach()
    state = torch.get_rng_state()
    unet.conv_in = nn.Conv2d(3, 4, 3, padding=1)
    torch.set_rng_state(state)
    nn.init.kaiming_uniform_(unet.conv_in.weight, a=5**0.5)  # the weight alone
    unet.conv_in.bias = nn.Parameter(kept)
    unet.conv_out = nn.Conv2d(4, 3, 3, padding=1)
    optimizer = torch.optim.SGD(unet.parameters(), lr=0.05, momentum=0.9)
    losses = train(unet, scheduler, optimizer, images, labels)
    out |= {"ends.images": images, "ends.losses": losses}
    out |= {f"ends.{name}": p.detach().clone() for name, p in chosen(unet)}


def chosen(unet):
    names = ("conv_in.weight", "class_embedding.weight", "mid_block.resnets.0.conv1.weight", "conv_out.bias")
    return [(name, parameter) for name, parameter in unet.named_parameters() if name in names]


def main():
    torch.set_num_threads(1)
    save_pretrained()
    out = {}
    for case in (course, classes, ends):
        case(out)
        losses = out[f"{case.__name__}.losses"]
        print(f"{case.__name__}: {len(losses)} losses, {losses[:2].tolist()} ... {losses[-1]:.6f}")
    metadata = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    save_file(out, HERE / "trained.safetensors", metadata)


if __name__ == "__main__":
    main()
