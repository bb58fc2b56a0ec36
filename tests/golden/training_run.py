"""Writes training-run-5.safetensors: a training of the tutorial's network with the usual options, in PyTorch and
diffusers, for tests/parity.rs.

    training_run.py --mnist DIR

AdamW, a cosine schedule with warm-up, gradient accumulation (the last step of an epoch has one short batch), gradient
clipping, averaged weights: two epochs on the digit 5. The file gets the loss, the norm and the rate of each step, and
some of the final weights and of their averages.
"""

import argparse
import pathlib

import torch
import torch.nn.functional as F
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from tutorial import BasicUNet, corrupt, load_images

EPOCHS, BATCH_SIZE, ACCUMULATED = 2, 64, 4

parser = argparse.ArgumentParser()
parser.add_argument("--mnist", type=pathlib.Path, required=True)
images = load_images(parser.parse_args().mnist, [5])

torch.set_num_threads(2)
torch.manual_seed(0)
net = BasicUNet()
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, betas=(0.95, 0.999), weight_decay=0.01)
loader = DataLoader(range(len(images)), batch_size=BATCH_SIZE, shuffle=True)
total = EPOCHS * -(-len(loader) // ACCUMULATED)
schedule = get_scheduler("cosine", optimizer, num_warmup_steps=5, num_training_steps=total)
ema = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)

steps = {"losses": [], "grad_norms": [], "lrs": [], "ema_decays": []}
for epoch in range(EPOCHS):
    batches = iter(loader)
    for first in range(0, len(loader), ACCUMULATED):
        of_step = min(BATCH_SIZE * (first + ACCUMULATED), len(images)) - BATCH_SIZE * first
        optimizer.zero_grad()
        whole = 0.0
        for _ in range(min(ACCUMULATED, len(loader) - first)):
            x = images[next(batches)]
            amount = torch.rand(len(x))
            noise = torch.rand(x.shape)
            loss = F.mse_loss(net(corrupt(x, noise, amount)), x) * (len(x) / of_step)
            loss.backward()
            whole += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 0.05)
        steps["lrs"].append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
        ema.step(net.parameters())
        steps["losses"].append(whole)
        steps["grad_norms"].append(norm.item())
        steps["ema_decays"].append(ema.cur_decay_value)

names = [name for name, _ in net.named_parameters()]
out = {name: torch.tensor(values, dtype=torch.float32) for name, values in steps.items()}
for name, weight, average in zip(names, net.parameters(), ema.shadow_params):
    if name in ("down_layer1.weight", "up_layer2.bias", "up_layer3.weight"):
        out |= {name: weight.detach().clone(), f"ema.{name}": average.clone()}
path = pathlib.Path(__file__).parent / "training-run-5.safetensors"
save_file(out, path, {"torch": torch.__version__, "images": str(len(images))})
print(f"{path.name}: {total} steps, first losses {steps['losses'][:3]}, norms {steps['grad_norms'][:3]}, last {steps['grad_norms'][-1]}")
