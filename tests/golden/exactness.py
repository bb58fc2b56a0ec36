"""How exact PyTorch's f32 is, against f64: writes exactness.safetensors for crates/ops/tests/exactness.rs.

A case is one tensor of errors: of the result, then of the gradient of each argument. An error is the largest difference
divided by the largest magnitude. The arguments are torch's random numbers from the case's seed; the Rust test draws
them again.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

# name: seed, then the sizes
CONVOLUTIONS = {  # batch, input channels, height, width, output channels, kernel, stride, padding
    "1-32@28 5x5": (1, 8, 1, 28, 28, 32, 5, 1, 2),
    "32-64@14 5x5": (2, 8, 32, 14, 14, 64, 5, 1, 2),
    "64-64@7 5x5": (3, 8, 64, 7, 7, 64, 5, 1, 2),
    "64-32@14 5x5": (4, 8, 64, 14, 14, 32, 5, 1, 2),
    "32-1@28 5x5": (5, 8, 32, 28, 28, 1, 5, 1, 2),
    "32-32@28 3x3": (6, 8, 32, 28, 28, 32, 3, 1, 1),
    "64-64@14 3x3": (7, 8, 64, 14, 14, 64, 3, 1, 1),
    "128-128@32 3x3": (8, 1, 128, 32, 32, 128, 3, 1, 1),
    "256-256@16 3x3": (9, 1, 256, 16, 16, 256, 3, 1, 1),
    "32-32@28 3x3 stride 2": (10, 8, 32, 28, 28, 32, 3, 2, 1),
    "3-128@32 3x3": (11, 1, 3, 32, 32, 128, 3, 1, 1),
    "128-3@32 3x3": (12, 1, 128, 32, 32, 3, 3, 1, 1),
    "96-48@16 1x1": (13, 4, 96, 16, 16, 48, 1, 1, 0),
}


def errors(op, arguments):
    gradient = torch.randn(op(*arguments).shape)  # the next random numbers after the arguments
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [argument.clone().to(dtype).requires_grad_() for argument in arguments]
        y = op(*leaves)
        y.backward(gradient.to(dtype))
        results.append([y.detach(), *(leaf.grad for leaf in leaves)])
    return torch.tensor([((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(*results)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", help="not used: every script here takes it")
    parser.parse_args()
    torch.set_num_threads(2)
    out = {}
    for name, (seed, b, ci, h, w, co, k, stride, padding) in CONVOLUTIONS.items():
        sizes = torch.tensor([seed, b, ci, h, w, co, k, stride, padding])
        for silu in (False, True):
            torch.manual_seed(seed)
            x, weight, bias = torch.randn(b, ci, h, w), torch.randn(co, ci, k, k) / (ci * k * k) ** 0.5, torch.randn(co)
            op = lambda x, weight, bias: F.conv2d(x, weight, bias, stride, padding)
            both = lambda *leaves: F.silu(op(*leaves)) if silu else op(*leaves)
            key = f"conv2d{'_silu' if silu else ''} {name}"
            out[key], out[f"{key} sizes"] = errors(both, [x, weight, bias]), sizes.clone()
            print(key, out[key].tolist())
    save_file(out, Path(__file__).with_suffix(".safetensors"), {"torch": torch.__version__})


if __name__ == "__main__":
    main()
