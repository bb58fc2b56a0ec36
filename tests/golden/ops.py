"""Writes ops.safetensors: values and gradients of PyTorch's operations, for crates/ops/tests/torch.rs.

Needs torch, diffusers and safetensors. Every case holds its arguments, its result `y`, the weights `g` of the sum that
was differentiated, and the gradient `d_<argument>` of each argument.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.downsampling import downsample_2d
from diffusers.models.upsampling import upsample_2d
from safetensors.torch import save_file

torch.manual_seed(0)
out = {}


def case(name, op, **arguments):
    leaves = {key: value.clone().requires_grad_() for key, value in arguments.items()}
    y = op(**leaves)
    g = torch.randn(y.shape)
    (y * g).sum().backward()
    out.update({f"{name}.{key}": value for key, value in arguments.items()})
    out.update({f"{name}.d_{key}": value.grad for key, value in leaves.items()})
    out.update({f"{name}.y": y.detach(), f"{name}.g": g})


for name, (b, ci, co, h, w, k, padding) in {
    "conv_first": (1, 1, 32, 12, 10, 5, 2),
    "conv_inner": (2, 16, 17, 7, 5, 5, 2),
    "conv_last": (2, 32, 1, 10, 8, 5, 2),
    "conv_3x3": (2, 5, 33, 9, 6, 3, 1),
    "conv_wide": (1, 3, 4, 2, 5, 3, 2),
    "conv_1x1": (2, 18, 3, 4, 4, 1, 0),
}.items():
    arguments = {"x": torch.randn(b, ci, h, w), "weight": torch.randn(co, ci, k, k) / (ci * k * k) ** 0.5, "bias": torch.randn(co)}
    case(name, lambda x, weight, bias: F.conv2d(x, weight, bias, padding=padding), **arguments)
    case(f"{name}_silu", lambda x, weight, bias: F.silu(F.conv2d(x, weight, bias, padding=padding)), **arguments)

for name, (stride, padding) in {"conv_stride": (2, (1, 1, 1, 1)), "conv_downsample": (2, (0, 1, 0, 1)), "conv_skew": (1, (2, 0, 1, 2))}.items():
    top, bottom, left, right = padding
    arguments = {"x": torch.randn(2, 16, 9, 6), "weight": torch.randn(16, 16, 3, 3) / 12, "bias": torch.randn(16)}
    case(name, lambda x, weight, bias: F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, stride), **arguments)
arguments = {"x": torch.randn(2, 8, 5, 3) * 2 + 1, "weight": torch.randn(8), "bias": torch.randn(8)}
case("group_norm", lambda x, weight, bias: F.group_norm(x, 4, weight, bias, 1e-5), **arguments)
case("group_norm_silu", lambda x, weight, bias: F.silu(F.group_norm(x, 2, weight, bias, 1e-6)), **arguments)
case("linear", lambda x, weight, bias: F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2), x=torch.randn(2, 7, 3, 4), weight=torch.randn(9, 7), bias=torch.randn(9))


def attention(q, k, v, heads=2):
    b, c, h, w = q.shape
    tokens = lambda x: x.reshape(b, heads, c // heads, h * w).transpose(2, 3)
    return F.scaled_dot_product_attention(tokens(q), tokens(k), tokens(v)).transpose(2, 3).reshape(b, c, h, w)


case("attention", attention, **{name: torch.randn(2, 8, 4, 3) for name in "qkv"})

# few different values, so that most blocks have ties
case("max_pool", lambda x: F.max_pool2d(x, 2), x=torch.randint(0, 3, (2, 3, 7, 9)).float())
case("max_pool_noise", lambda x: F.max_pool2d(x, 2), x=torch.randn(2, 3, 8, 8))
nan, inf = float("nan"), float("inf")
case(
    "max_pool_special",
    lambda x: F.max_pool2d(x, 2),
    x=torch.tensor([[[[1.0, nan, nan, 2.0, -inf, -inf, nan, nan], [3.0, 4.0, 5.0, nan, -inf, -inf, inf, nan]]]]),
)
case("upsample", lambda x: F.interpolate(x, scale_factor=2), x=torch.randn(2, 3, 3, 5))
case("silu", lambda x: F.silu(x), x=torch.cat([torch.randn(300) * 5, torch.linspace(-30, 30, 301)]))
case("silu_special", lambda x: F.silu(x), x=torch.tensor([0.0, -0.0, 80.0, -80.0, 89.0, -89.0, 1e30, -1e30, 1e-30, 3e38, -3e38, inf, -inf, nan]))
case("mse", lambda x, target: F.mse_loss(x, target), x=torch.randn(3, 5, 7), target=torch.randn(3, 5, 7))

# Adam: 20 steps on given gradients, including small, large and zero ones
params = [torch.randn(37, 5), torch.randn(3)]
leaves = [p.clone().requires_grad_() for p in params]
adam = torch.optim.Adam(leaves, lr=3e-3)
out.update({f"adam.{i}.start": p for i, p in enumerate(params)})
for step in range(20):
    for i, leaf in enumerate(leaves):
        leaf.grad = torch.randn(leaf.shape) * 10.0 ** torch.randint(-6, 3, leaf.shape).float() * (torch.rand(leaf.shape) < 0.8)
        out[f"adam.{i}.grad.{step}"] = leaf.grad.clone()
    adam.step()
    if step in (0, 9, 19):
        out.update({f"adam.{i}.after.{step}": leaf.detach().clone() for i, leaf in enumerate(leaves)})
for i, leaf in enumerate(leaves):
    out[f"adam.{i}.exp_avg"] = adam.state[leaf]["exp_avg"]
    out[f"adam.{i}.exp_avg_sq"] = adam.state[leaf]["exp_avg_sq"]

# with equal numbers, where the slope of l1 is 0
rounded = {"x": torch.randn(3, 5, 7).mul(2).round(), "target": torch.randn(3, 5, 7).mul(2).round()}
special = {"x": torch.tensor([1.0, inf, -inf, nan, 3.0, -4.0, 1e30]), "target": torch.tensor([1.0, 2.0, 2.0, 2.0, 1.0, 1.0, -1e30])}
case("l1", lambda x, target: F.l1_loss(x, target), **rounded)
case("l1_special", lambda x, target: F.l1_loss(x, target), **special)
case("huber", lambda x, target: F.huber_loss(x, target), **rounded)
case("huber_narrow", lambda x, target: F.huber_loss(x, target, delta=0.3), x=torch.randn(3, 5, 7), target=torch.randn(3, 5, 7))
case("huber_special", lambda x, target: F.huber_loss(x, target, delta=2.0), **special)

smooth = {"x": torch.randn(2, 3, 6, 7)}
case("fir_down", lambda x: downsample_2d(x, kernel=(1, 3, 3, 1)), **smooth)
case("fir_up", lambda x: upsample_2d(x, kernel=(1, 3, 3, 1)), **smooth)
arguments = {"x": torch.randn(2, 5, 4, 3), "vector": torch.randn(2, 10, 1, 1)}
case("scale_shift", lambda x, vector: x * (1 + vector.chunk(2, 1)[0]) + vector.chunk(2, 1)[1], **arguments)
line = {"x": torch.cat([torch.linspace(-30, 30, 301), torch.tensor([0.0, 89.0, -89.0, 1e30, -1e30])]).reshape(1, 1, 1, -1)}
for name in ["gelu", "mish", "relu"]:
    case(name, lambda x: getattr(F, name)(x), **line)

save_file({key: value.contiguous().clone() for key, value in out.items()}, Path(__file__).with_suffix(".safetensors"))
