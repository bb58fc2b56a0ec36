"""Images changed as EDM's augmentation changes them, by torch's padding, convolutions and `grid_sample` in f64:
`augment.safetensors`.

For each size there are images `[n, c, h, w]`, what is done to each (`changes`, `[n, 8]`: mirrored left to right, top to
bottom, scale, angle, stretch, its direction, and the shift right and down), what a model is told of it (`labels`,
`[n, 9]`), and the result. The formulas are those of Karras et al. 2022, appendix F.2, and of Karras et al. 2020,
appendix B; the filter is that of the wavelet sym6.
"""

import argparse
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

SYM6 = torch.tensor(
    [
        [0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633],
        [0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252],
        [-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148],
    ],
    dtype=torch.float64,
).flatten()
argparse.ArgumentParser(description=__doc__).parse_known_args()


def affine(a=1.0, b=0.0, c=0.0, d=1.0, x=0.0, y=0.0):
    return torch.tensor([[a, b, x], [c, d, y], [0.0, 0.0, 1.0]], dtype=torch.float64)


def rotation(angle):
    cos, sin = torch.cos(angle).item(), torch.sin(angle).item()
    return affine(cos, -sin, sin, cos)


def filtered(image, along, **options):
    """The filter over `[c, h, w]`, along the width (1) or the height (0)."""
    kernel = options.pop("kernel").reshape((1, 1, 1, -1) if along else (1, 1, -1, 1))
    return F.conv2d(image[:, None], kernel, **options)[:, 0]


def changed(image, change):
    """`image` `[c, h, w]`, from 0 to 1."""
    flip_x, flip_y, scale, angle, stretch, direction, right, down = change.double()
    image = image.double() * 2 - 1
    image = image.flip(2) if flip_x else image
    image = image.flip(1) if flip_y else image
    _, height, width = image.shape
    zoom, factor = 2 ** (0.2 * scale.item()), 2 ** (0.2 * stretch.item())
    inverse = affine(1 / zoom, d=1 / zoom) @ rotation(angle)
    inverse = inverse @ rotation(-direction) @ affine(1 / factor, d=factor) @ rotation(direction)
    inverse = inverse @ affine(x=-0.125 * right.item() * width, y=-0.125 * down.item() * height)

    # mirror images around, as far as the corners of the new image reach, and six pixels more for the filters
    x, y = (width - 1) / 2, (height - 1) / 2
    corners = inverse @ torch.tensor([[-x, x, x, -x], [-y, -y, y, y], [1, 1, 1, 1]], dtype=torch.float64)
    reach = [-corners[0].min() - x, corners[0].max() - x, -corners[1].min() - y, corners[1].max() - y]
    sides = [width, width, height, height]
    padding = [int((r + 6).clamp(0, side - 1).ceil()) for r, side in zip(reach, sides)]
    image = F.pad(image, padding, mode="reflect")
    inverse = affine(x=(padding[0] - padding[1]) / 2, y=(padding[2] - padding[3]) / 2) @ inverse

    for along in (1, 0):
        spread = torch.stack([image, torch.zeros_like(image)], dim=along + 2)
        spread = spread.flatten(along + 1, along + 2).narrow(along + 1, 0, 2 * image.shape[along + 1] - 1)
        image = filtered(spread, along, kernel=SYM6.flip(0), padding=(0, 6) if along else (6, 0))
    inverse = affine(2, d=2) @ inverse @ affine(0.5, d=0.5)
    inverse = affine(x=-0.5, y=-0.5) @ inverse @ affine(x=0.5, y=0.5)

    size = [1, image.shape[0], 2 * (height + 6), 2 * (width + 6)]
    inverse = affine(2 / image.shape[2], d=2 / image.shape[1]) @ inverse @ affine(size[3] / 2, d=size[2] / 2)
    grid = F.affine_grid(inverse[None, :2], size, align_corners=False)
    image = F.grid_sample(image[None], grid, padding_mode="zeros", align_corners=False)[0]
    for along in (1, 0):
        stride, padding = ((1, 2), (0, 5)) if along else ((2, 1), (5, 0))
        image = filtered(image, along, kernel=SYM6, stride=stride, padding=padding)
        image = image.narrow(along + 1, 3, image.shape[along + 1] - 6)
    return (image + 1) / 2


def labels(change):
    flip_x, flip_y, scale, angle, stretch, direction, right, down = change
    told = [flip_x, flip_y, scale, angle.cos() - 1, angle.sin(), stretch * direction.cos(), stretch * direction.sin()]
    return torch.stack([*told, right, down])


torch.manual_seed(0)
tensors = {}
for name, shape in {"grey": (1, 20, 20), "rgb": (3, 11, 16)}.items():
    images = torch.rand(8, *shape)
    changes = torch.cat([torch.zeros(8, 2), torch.randn(8, 6)], dim=1)
    for i, kept in enumerate([[2], [3], [4], [4, 5], [6, 7], []]):  # one kind alone, mirrors alone, then everything
        changes[i] *= torch.tensor([float(place in kept) for place in range(8)])
    changes[5, :2], changes[7, 1] = 1, 1
    tensors |= {f"{name}.images": images, f"{name}.changes": changes}
    tensors[f"{name}.labels"] = torch.stack([labels(change) for change in changes])
    tensors[f"{name}.changed"] = torch.stack([changed(*pair).float() for pair in zip(images, changes)])

here = pathlib.Path(__file__).resolve().parent
save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, here / "augment.safetensors")
