"""Writes class_conditioned_unet.safetensors: the diffusion course's class-conditioned network, for
crates/models/tests/class_conditioned_unet.rs.

Needs torch, diffusers and safetensors. The metadata holds the configuration, the seed of the weights, the timesteps (`levels`), the
labels, and the SHA-256 of all weights in the order of their names, each after its name. From
`torch.Generator().manual_seed(1)` come the images and then the factors of the sum that is differentiated. Tensors: the
output `y`, the gradients of the table and of the first and the last convolution.
"""

import hashlib
import json
from pathlib import Path

import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

NUM_CLASSES, CLASS_EMB_SIZE = 5, 3
UNET = {
    "sample_size": 8,
    "in_channels": 2,
    "out_channels": 2,
    "layers_per_block": 1,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
}


class ClassConditionedUnet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.class_emb = torch.nn.Embedding(NUM_CLASSES, CLASS_EMB_SIZE)
        self.model = UNet2DModel(**{**UNET, "in_channels": UNET["in_channels"] + CLASS_EMB_SIZE})

    def forward(self, images, timesteps, classes):
        planes = self.class_emb(classes)[:, :, None, None].expand(-1, -1, *images.shape[2:])
        return self.model(torch.cat([images, planes], dim=1), timesteps).sample


levels, labels = [0, 10, 999], [4, 0, 4]
torch.manual_seed(0)
network = ClassConditionedUnet()
digest = hashlib.sha256()
for name, weight in sorted(network.named_parameters()):
    digest.update(name.encode() + weight.detach().numpy().tobytes())

generator = torch.Generator().manual_seed(1)
images = torch.randn(3, UNET["in_channels"], 8, 8, generator=generator)
y = network(images, torch.tensor(levels), torch.tensor(labels))
(y * torch.randn(y.shape, generator=generator)).sum().backward()

weights = dict(network.named_parameters())
gradients = {name: weights[name].grad for name in ["class_emb.weight", "model.conv_in.weight", "model.conv_out.weight"]}
metadata = {
    "torch": torch.__version__,
    "config": json.dumps({**UNET, "num_classes": NUM_CLASSES, "class_emb_size": CLASS_EMB_SIZE}),
    "levels": json.dumps(levels),
    "labels": json.dumps(labels),
    "sha256": digest.hexdigest(),
}
tensors = {"y": y.detach().contiguous(), **gradients}
save_file(tensors, Path(__file__).with_suffix(".safetensors"), metadata=metadata)
