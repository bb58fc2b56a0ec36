"""Writes mnist/, the first images of MNIST, and trainings on them by PyTorch and diffusers, for tests that always run.

    mnist_excerpt.py --mnist DIR

DIR holds MNIST's training split as published (gzipped IDX). `mnist/` gets its first 512 images and labels as the same
two files, and as the Hub's parquet file, whose pictures are PNG. `tutorial-excerpt.safetensors` gets all losses of the
tutorial on them (digits 1, 8 and 4), the first 16 of its samples, and the first losses of configs/ddpm-184.toml and
configs/184-unet2d.toml.
"""

import argparse
import gzip
import io
import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import tutorial
import unet_training

HERE = pathlib.Path(__file__).parent
OUT = HERE / "mnist"
COUNT = 512
STEPS, SAMPLES = 4, 16


def excerpt(mnist, name, header, size):
    """The file's first images or labels, under a header that counts them."""
    with gzip.open(mnist / name) as file:
        begin = bytearray(file.read(header))
        bytes_of = file.read(COUNT * size)
    begin[4:8] = COUNT.to_bytes(4, "big")
    # without name and time, so that the bytes are always the same
    (OUT / name).write_bytes(gzip.compress(bytes(begin) + bytes_of, 9, mtime=0))
    return bytes_of


def png(pixels):
    file = io.BytesIO()
    Image.frombytes("L", (28, 28), pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=pathlib.Path, required=True)
    mnist = parser.parse_args().mnist
    torch.set_num_threads(2)
    OUT.mkdir(exist_ok=True)
    pixels = excerpt(mnist, "train-images-idx3-ubyte.gz", 16, 784)
    labels = excerpt(mnist, "train-labels-idx1-ubyte.gz", 8, 1)

    files = [png(pixels[784 * i : 784 * (i + 1)]) for i in range(COUNT)]
    structs = pa.array([{"bytes": file, "path": None} for file in files], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    table = pa.table({"image": structs, "label": pa.array(list(labels), pa.int64())})
    names = {"_type": "ClassLabel", "names": [str(i) for i in range(10)]}
    declared = json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": names}}})
    place = OUT / "hub/mnist/train/0000.parquet"
    place.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": declared}), place, row_group_size=100)

    run = HERE / "tutorial-excerpt.safetensors"
    tutorial.run(OUT, 0, [1, 8, 4], 5, run)
    with safe_open(run, "pt") as file:
        out, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    out["samples"] = out["samples"][:SAMPLES].contiguous()
    images = tutorial.load_images(OUT, [1, 8, 4])
    for kind in unet_training.STEPS:
        # an epoch has as many batches
        of_epoch = -(-len(images) // unet_training.BATCH_SIZE[kind])
        losses = [loss for _, loss in zip(range(min(STEPS, of_epoch)), unet_training.losses(images, kind))]
        out[kind] = torch.tensor(losses)
    save_file(out, run, metadata)


if __name__ == "__main__":
    main()
