"""Small pictures of every kind, and torchvision's pixels of them: `images.safetensors`.

The pictures are drawn here (gradients, shapes, noise) and kept in the file as the bytes of PNG, JPEG, WebP and GIF.
Next to each are, as bytes `[c, h, w]`, the results of `Resize(side) -> CenterCrop(side)` in grey and in RGB, and of
`Resize(24)` in RGB. For further JPEGs, of every kind and every chroma subsampling, the file has the decoded pixels and
the results of `Resize(12) -> CenterCrop(12)` and of a flip.
"""

import argparse
import io
import pathlib

import numpy as np
import torchvision
from PIL import Image, ImageDraw, ImageOps
from safetensors.numpy import save_file
from torchvision import transforms

argparse.ArgumentParser(description=__doc__).parse_known_args()
rng = np.random.default_rng(0)


def photograph(width, height, noise=6.0):
    """A gradient, some shapes with hard and slanted edges, and a little noise."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    pixels = np.stack([255 * x, 255 * (1 - y), 128 + 127 * np.sin(9 * x + 5 * y)], -1)
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((width * 0.1, height * 0.2, width * 0.5, height * 0.8), fill=(230, 40, 30))
    draw.polygon([(width * 0.6, height * 0.1), (width * 0.95, height * 0.6), (width * 0.5, height * 0.9)], fill=(10, 60, 200))
    for i in range(0, width, 7):
        draw.line((i, 0, i + height // 3, height), fill=(255, 255, 255))
    noisy = np.asarray(picture).astype(np.float64) + rng.normal(0, noise, (height, width, 3))
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def file(picture, format, **options):
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def with_alpha(picture):
    x = np.linspace(0, 255, picture.width)[None, :].repeat(picture.height, 0)
    picture = picture.copy()
    picture.putalpha(Image.fromarray(x.round().astype(np.uint8)))
    return picture


rotated = Image.Exif()
rotated[0x0112] = 6  # rotated by 90 degrees
palette = photograph(61, 47).quantize(37)
frames = [photograph(45, 39).quantize(64) for _ in range(3)]
files = {
    "rgb.png": file(photograph(97, 61), "PNG"),
    "tall.png": file(photograph(33, 120), "PNG"),
    "small.png": file(photograph(13, 11), "PNG"),
    "exact.png": file(photograph(32, 32), "PNG"),
    "grey.png": file(photograph(75, 52).convert("L"), "PNG"),
    "one-bit.png": file(photograph(75, 52).convert("1"), "PNG"),
    "palette.png": file(palette, "PNG"),
    "see-through-palette.png": file(palette, "PNG", transparency=5),
    "alpha.png": file(with_alpha(photograph(64, 41)), "PNG"),
    "grey-alpha.png": file(with_alpha(photograph(64, 41).convert("L")), "PNG"),
    "rgb.jpg": file(photograph(151, 103), "JPEG", quality=90),
    "full-chroma.jpg": file(photograph(90, 71), "JPEG", quality=95, subsampling=0),
    "progressive.jpg": file(photograph(83, 99), "JPEG", quality=85, progressive=True),
    "grey.jpg": file(photograph(70, 55).convert("L"), "JPEG", quality=90),
    "turned.jpg": file(photograph(80, 50), "JPEG", quality=95, subsampling=0, exif=rotated),
    "lossy.webp": file(photograph(77, 58), "WEBP", quality=90),
    "lossless.webp": file(with_alpha(photograph(39, 55)), "WEBP", lossless=True, exact=True),
    "animated.gif": file(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=2),
    "see-through.gif": file(frames[1], "GIF", transparency=3),
}

BACKGROUND = (255, 128, 0)
tensors, made = {}, {}


def opened(name, channels):
    """Opens a picture as Hugging Face's datasets does, with transparent pixels in the background's colour."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(files[name])))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        ground = Image.new("RGB", picture.size, BACKGROUND)
        ground.paste(picture, mask=picture.getchannel("A"))
        picture = ground
    return picture.convert("L" if channels == 1 else "RGB")


def keep(key, picture):
    pixels = np.asarray(picture)
    tensors[key] = pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


for name, data in files.items():
    tensors[f"file.{name}"] = np.frombuffer(data, np.uint8)
    for channels in (1, 3):
        picture = opened(name, channels)
        for side in (16, 32, 45):
            resized = transforms.Resize(side)(picture)
            keep(f"center.{name}.{channels}.{side}", transforms.CenterCrop(side)(resized))
    keep(f"whole.{name}", transforms.Resize(24)(opened(name, 3)))


def noise(width, height):
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def jpeg(picture, subsampling, **options):
    if subsampling != "4:4:0":
        return file(picture, "JPEG", subsampling=subsampling, **options)
    # Pillow cannot write it. It writes 4:2:2, and the header is changed so that adjacent blocks lie one above the other.
    width, height = picture.size
    columns, rows = -(-width // 8), -(-height // 16)
    padding = ((0, rows * 16 - height), (0, columns * 8 - width), (0, 0))
    pixels = np.pad(np.asarray(picture.convert("YCbCr")), padding, "edge").reshape(rows, 2, 8, columns, 8, 3)
    luma = pixels[..., :1].transpose(0, 2, 3, 1, 4, 5).reshape(rows * 8, columns * 16, 1)
    chroma = pixels[..., 1:].reshape(rows, 8, 2, columns, 8, 2).mean(2).round().astype(np.uint8)
    chroma = chroma.reshape(rows * 8, columns * 8, 2).repeat(2, 1)
    data = file(Image.fromarray(np.concatenate([luma, chroma], -1), "YCbCr"), "JPEG", subsampling="4:2:2", **options)
    size = lambda height, width: b"\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + b"\x03\x01"
    before, after = size(rows * 8, columns * 16) + b"\x21", size(height, width) + b"\x12"
    assert data.count(before) == 1
    return data.replace(before, after)


jpegs = {}
for kind, make in (("photograph", photograph), ("noise", noise)):
    for i, subsampling in enumerate(("4:4:4", "4:2:2", "4:2:0", "4:4:0")):
        for progressive in (False, True):
            size = [(37, 29), (21, 27), (17, 33), (35, 19)][(i + progressive) % 4]
            quality = [50, 75, 92, 100][len(jpegs) // 2 % 4 if progressive else -1 - i]
            name = f"{kind}-{subsampling}-{'progressive' if progressive else 'baseline'}"
            jpegs[name] = jpeg(make(*size), subsampling, quality=quality, progressive=progressive)
jpegs["grey"] = file(photograph(35, 19).convert("L"), "JPEG", quality=85)
jpegs["rgb"] = file(photograph(21, 13), "JPEG", quality=85, keep_rgb=True)
jpegs["restarts"] = file(photograph(35, 19), "JPEG", quality=85, restart_marker_blocks=2)
jpegs["cmyk"] = file(photograph(21, 13).convert("CMYK"), "JPEG", quality=85)
adobe = jpegs["cmyk"].index(b"Adobe") + 11
assert jpegs["cmyk"][adobe] == 0
jpegs["ycck"] = jpegs["cmyk"][:adobe] + b"\x02" + jpegs["cmyk"][adobe + 1 :]
for name, data in jpegs.items():
    tensors[f"jpeg.{name}"] = np.frombuffer(data, np.uint8)
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    keep(f"decoded.{name}", picture)
    center = transforms.CenterCrop(12)(transforms.Resize(12)(picture))
    keep(f"jpeg-center.{name}", center)
    keep(f"jpeg-flipped.{name}", transforms.functional.hflip(center))

versions = {"torchvision": torchvision.__version__.split("+")[0], "pillow": Image.__version__}
save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"), metadata=versions)
