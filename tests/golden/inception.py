"""Writes inception.safetensors: features of pytorch-fid's InceptionV3 with random weights, for
crates/eval/tests/inception.rs.

Needs torch, torchvision, pytorch-fid (0.3.0), numpy and scipy. Neither the weights nor the images are saved: the test
draws them again from the same seeds. It compares every 32nd feature of each image, the norm of all of them, and the
Fréchet distance between the two halves of the images.
"""

from pathlib import Path

import numpy as np
import torch
import torchvision
from pytorch_fid import inception
from safetensors.torch import save_file
from scipy import linalg

torch.set_grad_enabled(False)
out = {}


def draw_weights(network):
    """Weights that keep the size of the features from layer to layer, in the order of `state_dict`."""
    torch.manual_seed(3)
    for name, tensor in network.state_dict().items():
        if name.startswith(("fc.", "AuxLogits.")) or name.endswith("num_batches_tracked"):
            continue
        drawn = torch.randn(tensor.shape)
        if name.endswith("conv.weight"):
            drawn *= (2.0 / tensor[0].numel()) ** 0.5
        elif name.endswith("running_var"):
            drawn = 1 + 0.1 * drawn * drawn
        else:
            drawn = 0.2 * drawn + (1.0 if name.endswith("bn.weight") else 0.0)
        tensor.copy_(drawn)


def images(n, channels, height, width):
    """The second half is darker, in 256 levels."""
    x = torch.rand(n, channels, height, width)
    x[n // 2 :] *= 0.6
    return torch.round(x * 255) / 255


def frechet(a, b):
    """In f64, by the eigenvalues of the product of the covariances, which are singular."""
    a, b = a.double().numpy(), b.double().numpy()
    means = a.mean(0) - b.mean(0)
    ca, cb = a - a.mean(0), b - b.mean(0)
    # the root's trace is the sum of the singular values of the product of the centred features
    roots = linalg.svdvals(ca @ cb.T).sum() / np.sqrt((len(a) - 1) * (len(b) - 1))
    traces = (ca * ca).sum() / (len(a) - 1) + (cb * cb).sum() / (len(b) - 1)
    return means @ means + traces - 2 * roots


inception.load_state_dict_from_url = lambda *_, **__: patched.state_dict()
patched = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
for name in ("fid", "torchvision"):
    if name == "fid":
        network = inception.fid_inception_v3()
    else:
        network = torchvision.models.inception_v3(weights=None, init_weights=False)
    draw_weights(network)
    # pytorch-fid's own wrapper, with this network in it
    inception.fid_inception_v3 = lambda: network
    wrapper = inception.InceptionV3([3], use_fid_inception=True).eval()
    torch.manual_seed(4)
    for size, shape in {"small": (8, 3, 32, 32), "large": (2, 3, 310, 340), "grey": (2, 1, 28, 28)}.items():
        if name == "torchvision" and size != "small":
            continue
        x = images(*shape)
        features = wrapper(x.expand(-1, 3, -1, -1))[0].flatten(1)
        half = len(x) // 2
        out[f"{name}.{size}.features"] = features[:, ::32].contiguous()
        out[f"{name}.{size}.norm"] = features.double().norm(dim=1)
        if size == "small":
            out[f"{name}.{size}.frechet"] = torch.tensor([frechet(features[:half], features[half:])])

metadata = {"torch": torch.__version__, "torchvision": torchvision.__version__, "pytorch-fid": "0.3.0"}
save_file(out, Path(__file__).with_suffix(".safetensors"), metadata=metadata)
