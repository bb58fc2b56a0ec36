"""Pictures as TIFF and BMP and of 16 bits, and Pillow's pixels of them: `formats.safetensors`.

The files are kept as bytes. Next to each is the result `[c, h, w]` of torchvision's `Resize((9, 20))`, which is Pillow's
`resize((20, 9), BILINEAR)`, in grey and in RGB. Pillow reads 16 bits only in grey, so 16-bit colour is written here, and
each channel is resized as a separate picture. Bytes are uint8, 16 bits uint16.
"""

import argparse
import io
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file

argparse.ArgumentParser(description=__doc__).parse_known_args()
rng = np.random.default_rng(0)
WIDTH, HEIGHT = 31, 23
BACKGROUND = (255, 128, 0)


def pixels(most, channels=3):
    x, y = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    all = np.stack([x, 1 - y, 0.5 + 0.5 * np.sin(9 * x + 5 * y), x * y], -1) * most
    all[5:9, 4:20] = (most, 0, most // 3, most // 2)
    return (all + rng.normal(0, most / 50, all.shape)).round().clip(0, most)[..., :channels]


def file(picture, format, **options):
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def png16(values):
    """A PNG of `[h, w, c]` in 16 bits."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    kind = {1: 0, 3: 2, 4: 6}[channels]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*parts) for parts in chunks)


def tiff16(values, order):
    """An uncompressed TIFF of `[h, w, c]` in 16 bits, in the byte order `order`, its directory after the pixels."""
    height, width, channels = values.shape
    data = values.astype(order + "u2").tobytes()
    bits_at = 8 + len(data)
    directory_at = bits_at + 2 * channels
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, bits_at), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 8)]
    tags += [(277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, len(data))]
    tags += [(338, 3, 1, 2)] if channels == 4 else []
    entry = lambda tag, kind, count, value: struct.pack(order + ("HHIHxx" if (kind, count) == (3, 1) else "HHII"), tag, kind, count, value)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", directory_at)
    bits = struct.pack(order + "H" * channels, *[16] * channels)
    return head + data + bits + struct.pack(order + "H", len(tags)) + b"".join(entry(*tag) for tag in tags) + b"\0\0\0\0"


photograph = Image.fromarray(pixels(255).astype(np.uint8))
alpha = Image.fromarray(pixels(255, 4).astype(np.uint8))
turned = Image.Exif()
turned[0x0112] = 6
files = {
    "rgb.tif": file(photograph, "TIFF"),
    "lzw.tif": file(photograph, "TIFF", compression="tiff_lzw"),
    "deflate.tiff": file(photograph, "TIFF", compression="tiff_adobe_deflate"),
    "packbits.tif": file(photograph, "TIFF", compression="packbits"),
    "grey.tif": file(photograph.convert("L"), "TIFF"),
    "one-bit.tif": file(photograph.convert("1"), "TIFF"),
    "fax.tif": file(photograph.convert("1"), "TIFF", compression="group4"),
    "alpha.tif": file(alpha, "TIFF"),
    "turned.tif": file(photograph, "TIFF", exif=turned),
    "pages.tif": file(photograph, "TIFF", save_all=True, append_images=[photograph.rotate(180)]),
    "rgb.bmp": file(photograph, "BMP"),
    "grey.bmp": file(photograph.convert("L"), "BMP"),
    "palette.bmp": file(photograph.quantize(9), "BMP"),
    "one-bit.bmp": file(photograph.convert("1"), "BMP"),
}
grey16, rgb16, rgba16 = pixels(65535, 1).astype(np.uint16), pixels(65535).astype(np.uint16), pixels(65535, 4).astype(np.uint16)
deep = {
    "deep-grey.png": (file(Image.fromarray(grey16[..., 0]), "PNG"), grey16),
    "deep-rgb.png": (png16(rgb16), rgb16),
    "deep-alpha.png": (png16(rgba16), rgba16),
    "deep-grey.tif": (file(Image.fromarray(grey16[..., 0]), "TIFF"), grey16),
    "deep-rgb.tif": (tiff16(rgb16, "<"), rgb16),
    "deep-rgb-big-endian.tif": (tiff16(rgb16, ">"), rgb16),
    "deep-alpha.tif": (tiff16(rgba16, "<"), rgba16),
}


def resized(picture):
    return np.asarray(picture.resize((20, 9), Image.Resampling.BILINEAR))


tensors = {}
for name, data in files.items():
    tensors[f"file.{name}"] = np.frombuffer(data, np.uint8)
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if picture.mode == "RGBA":
        ground = Image.new("RGB", picture.size, BACKGROUND)
        ground.paste(picture, mask=picture.getchannel("A"))
        picture = ground
    tensors[f"pair.{name}.1"] = resized(picture.convert("L"))[None]
    tensors[f"pair.{name}.3"] = np.ascontiguousarray(resized(picture.convert("RGB")).transpose(2, 0, 1))
for name, (data, values) in deep.items():
    tensors[f"file.{name}"] = np.frombuffer(data, np.uint8)
    values = values.astype(np.uint64)
    if values.shape[-1] == 4:
        over, opaque = values[..., :3], values[..., 3:]
        under = np.array(BACKGROUND, np.uint64) * 257
        values = (over * opaque + under * (65535 - opaque) + 32767) // 65535
    rgb = values if values.shape[-1] == 3 else values.repeat(3, -1)
    luma = (rgb @ np.array([19595, 38470, 7471], np.uint64) + 0x8000) >> 16
    tensors[f"pair.{name}.1"] = resized(Image.fromarray(luma.astype(np.uint16)))[None]
    tensors[f"pair.{name}.3"] = np.stack([resized(Image.fromarray(rgb[..., i].astype(np.uint16))) for i in range(3)])

save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"), metadata={"pillow": Image.__version__})
