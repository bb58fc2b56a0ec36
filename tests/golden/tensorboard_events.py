"""Writes tensorboard_events.bin: three events by TensorBoard's own writer, for the unit tests of crates/report.

Needs tensorboard.
"""

import io
from pathlib import Path

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

Value, Event = summary_pb2.Summary.Value, event_pb2.Event
scalars = [("loss", 0.25), ("lr", 1e-3), ("grad_norm", 1.5), ("epoch", 3.0), ("ema_decay", 0.75)]
png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (5).to_bytes(4, "big") + (7).to_bytes(4, "big")
image = summary_pb2.Summary.Image(height=7, width=5, colorspace=3, encoded_image_string=png)
events = [
    Event(wall_time=1.5, file_version="brain.Event:2"),
    Event(wall_time=2.5, step=300, summary=summary_pb2.Summary(value=[Value(tag=tag, simple_value=value) for tag, value in scalars])),
    Event(wall_time=3.5, step=300, summary=summary_pb2.Summary(value=[Value(tag="samples", image=image)])),
]
file = io.BytesIO()
writer = RecordWriter(file)
for event in events:
    writer.write(event.SerializeToString())
writer.flush()
Path(__file__).with_suffix(".bin").write_bytes(file.getvalue())
