"""The tutorial in PyTorch, with all draws in a fixed order, so that one seed makes a run repeatable.

    tutorial.py --mnist DIR                                    both files shipped here
    tutorial.py --mnist DIR --seed 7 --classes 3,5 --steps 40 --out FILE.safetensors

DIR holds MNIST's training split as it is published (gzipped IDX). FILE gets

    losses               [steps] f32, one loss per step
    epoch_means          [epochs] f64, each epoch's average loss (with --steps: up to there)
    first_batch_indices  [128] i64, the first batch, as indices into the images of the chosen classes
    samples              [64, 1, 28, 28] f32, 40 steps from noise, not clipped (with --steps: only if --samples)

and, as metadata, the settings and `initial_weights_sha256`, the digest of the parameters before the first step
(little-endian f32, in constructor order, one after the other).
"""

import argparse
import gzip
import hashlib
import pathlib
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

HERE = pathlib.Path(__file__).parent
BATCH_SIZE = 128
LEARNING_RATE = 1e-3
SAMPLES, SAMPLE_STEPS = 64, 40


class BasicUNet(nn.Module):
    """Three 5x5 convolutions down, three up, SiLU after every one, skips added."""

    def __init__(self):
        super().__init__()
        self.down_layer1 = nn.Conv2d(1, 32, kernel_size=5, padding=2)
        self.down_layer2 = nn.Conv2d(32, 64, kernel_size=5, padding=2)
        self.down_layer3 = nn.Conv2d(64, 64, kernel_size=5, padding=2)
        self.up_layer1 = nn.Conv2d(64, 64, kernel_size=5, padding=2)
        self.up_layer2 = nn.Conv2d(64, 32, kernel_size=5, padding=2)
        self.up_layer3 = nn.Conv2d(32, 1, kernel_size=5, padding=2)

    def forward(self, x):  # [b, 1, 28, 28]
        skip1 = F.silu(self.down_layer1(x))  # [b, 32, 28, 28]
        skip2 = F.silu(self.down_layer2(F.max_pool2d(skip1, 2)))  # [b, 64, 14, 14]
        h = F.silu(self.down_layer3(F.max_pool2d(skip2, 2)))  # [b, 64, 7, 7]
        h = F.silu(self.up_layer1(h))
        h = F.silu(self.up_layer2(F.interpolate(h, scale_factor=2) + skip2))  # [b, 32, 14, 14]
        return F.silu(self.up_layer3(F.interpolate(h, scale_factor=2) + skip1))  # [b, 1, 28, 28]


def read_idx(path):
    with gzip.open(path) as file:
        magic = file.read(4)
        shape = [int.from_bytes(file.read(4), "big") for _ in range(magic[3])]
        return torch.from_numpy(np.frombuffer(file.read(), np.uint8).reshape(shape).copy())


def load_images(mnist, classes):
    """The images of these classes in the file's order, f32 in 0..1 as torchvision's ToTensor makes them."""
    images = read_idx(mnist / "train-images-idx3-ubyte.gz")
    labels = read_idx(mnist / "train-labels-idx1-ubyte.gz")
    kept = torch.isin(labels, torch.tensor(classes, dtype=torch.uint8))
    return images[kept].unsqueeze(1).to(torch.float32).div(255)  # [n, 1, 28, 28]


def corrupt(x, noise, amount):
    amount = amount.view(-1, 1, 1, 1)
    return x * (1 - amount) + noise * amount


def sample(net, seed):
    torch.manual_seed(seed)
    x = torch.rand(SAMPLES, 1, 28, 28)
    with torch.no_grad():
        for i in range(SAMPLE_STEPS):
            factor = 1 / (SAMPLE_STEPS - i)
            x = x * (1 - factor) + net(x) * factor
    return x


def run(mnist, seed, classes, epochs, out, steps=None, samples=True, channels_last=False):
    images = load_images(mnist, classes)
    torch.manual_seed(seed)
    net = BasicUNet()
    weights = b"".join(p.detach().numpy().astype("<f4").tobytes() for p in net.parameters())
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    loader = DataLoader(range(len(images)), batch_size=BATCH_SIZE, shuffle=True)

    losses, epoch_means, first_batch = [], [], None
    for epoch in range(epochs):
        start, begun = time.time(), len(losses)
        for indices in loader:
            if len(losses) == steps:
                break
            first_batch = indices if first_batch is None else first_batch
            x = images[indices]
            amount = torch.rand(len(x))
            noise = torch.rand(x.shape)
            loss = F.mse_loss(net(corrupt(x, noise, amount)), x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if len(losses) > begun:
            epoch_means.append(sum(losses[begun:]) / (len(losses) - begun))
            print(f"epoch {epoch + 1}: loss {epoch_means[-1]:.7f}, {time.time() - start:.1f} s", flush=True)

    tensors = {
        "losses": torch.tensor(losses, dtype=torch.float32),
        "epoch_means": torch.tensor(epoch_means, dtype=torch.float64),
        "first_batch_indices": first_batch,
    }
    if samples:
        tensors["samples"] = sample(net, seed).contiguous()
        print(f"samples: sum {tensors['samples'].sum(dtype=torch.float64):.3f}")
    metadata = {
        "seed": str(seed),
        "classes": ",".join(map(str, classes)),
        "images": str(len(images)),
        "torch": torch.__version__,
        "initial_weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    save_file(tensors, out, metadata)
    print(f"{out}: {len(losses)} steps, first losses {losses[:5]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, help="one run of your own instead of the files shipped here")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classes", default="1,8,4")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, help="stop the training after so many steps")
    parser.add_argument("--samples", action="store_true", help="draw samples though --steps is given")
    parser.add_argument("--channels-last", action="store_true", help="faster, and the same but for rounding")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    if args.out is None:
        run(args.mnist, 0, [1, 8, 4], 5, HERE / "tutorial-184-seed0.safetensors")
        run(args.mnist, 7, [3, 5], 1, HERE / "tutorial-35-seed7.safetensors", steps=40, samples=False)
        return
    classes = [int(c) for c in args.classes.split(",")]
    samples = args.samples or args.steps is None
    run(args.mnist, args.seed, classes, args.epochs, args.out, args.steps, samples, args.channels_last)


if __name__ == "__main__":
    main()
