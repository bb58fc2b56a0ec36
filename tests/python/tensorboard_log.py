"""Trains a little and opens the log of the run with TensorBoard's own reader: it must have every number of
metrics.jsonl, and the pictures must be those of the files. The run ends and is resumed, so the log is written in two stages.

Needs tensorboard. Called by tests/exchange.rs.
"""

import argparse
import json
import os
import struct
import subprocess
import tempfile
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

CONFIG = """
data = { name = "mnist", classes = [1, 8], sources = ["drawn"], drawn_per_class = 16 }
model = { _class_name = "BasicUNet" }
scheduler = { _class_name = "LinearMixScheduler" }
sample = { steps = 2, batch_size = 4 }
train = { epochs = 1, batch_size = 8, use_ema = true, tensorboard = true, sample_every = 1 }
"""

parser = argparse.ArgumentParser()
parser.add_argument("--kakusan", type=Path, required=True)
kakusan = parser.parse_args().kakusan

with tempfile.TemporaryDirectory() as place:
    place = Path(place)
    (place / "tiny.toml").write_text(CONFIG)

    def train(*args):
        subprocess.run([kakusan, "train", *args], cwd=place, env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=True, capture_output=True)

    train("--config", "tiny.toml", "--out", "run")
    train("--resume", "run", "--set", "train.epochs=2")
    log = EventAccumulator(str(place / "run/logs"), size_guidance={"scalars": 0, "images": 0}).Reload()
    steps = [json.loads(line) for line in (place / "run/metrics.jsonl").read_text().splitlines()]
    tags = log.Tags()
    for tag in ("loss", "lr", "grad_norm", "ema_decay"):
        assert tag in tags["scalars"], tags
        for event, step in zip(log.Scalars(tag), steps, strict=True):
            single = struct.unpack("f", struct.pack("f", step[tag]))[0]
            assert (event.step, event.value) == (step["step"], single), (tag, event, step)
    pictures = [picture for tag in tags["images"] for picture in log.Images(tag)]
    files = sorted((place / "run/images").glob("epoch-*.png"))
    assert [picture.encoded_image_string for picture in pictures] == [file.read_bytes() for file in files]
    print(f"{len(steps)} steps, {len(pictures)} pictures")
