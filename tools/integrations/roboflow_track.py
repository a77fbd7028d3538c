#!/usr/bin/env python3
"""Track drawn persons with Roboflow's trackers, and join tracks of the same person by a model of `lat-wgpu export`.

    pip install trackers onnxruntime
    lat-wgpu export --to onnx --input u8 --out model.onnx
    python3 tools/integrations/roboflow_track.py lat-wgpu model.onnx

The trackers follow boxes by their motion. `Embedder` gives each detection an embedding, and a track that begins after
another one ended continues it if their mean embeddings are alike. Exit code 1 if a person has several tracks.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import supervision as sv
from PIL import Image
from trackers import SORTTracker

from walk import check, draw_figures, walk

# Least cosine of two tracks of the same person: measure it on images of your own.
ALIKE = 0.9


class Embedder:
    """Embeddings (n, D) of length 1 of the boxes of a frame."""

    def __init__(self, model):
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        _, self.height, self.width, _ = self.session.get_inputs()[0].shape

    def __call__(self, frame, detections):
        image = Image.fromarray(np.ascontiguousarray(frame[..., ::-1]))
        size = self.width, self.height
        crops = [image.crop(box).resize(size, Image.Resampling.BICUBIC) for box in detections.xyxy.astype(int).tolist()]
        return self.session.run(None, {"image": np.stack([np.asarray(crop) for crop in crops])})[0]


def join(rows):
    """Number of the first track of the same person for each track, from (time, track, embedding) in order of time."""
    spans, sums, first = {}, {}, {}
    for time, track, vector in rows:
        spans.setdefault(track, [time, time])[1] = time
        sums[track] = sums.get(track, 0) + vector
    means = {track: vector / np.linalg.norm(vector) for track, vector in sums.items()}
    for track, (start, _) in spans.items():
        ended = [other for other in first if spans[other][1] < start]
        best = max(ended, key=lambda other: means[other] @ means[track], default=None)
        alike = best is not None and means[best] @ means[track] >= ALIKE
        first[track] = first[best] if alike else track
    return first


def main(program, model):
    embed, tracker = Embedder(model), SORTTracker(lost_track_buffer=2, minimum_consecutive_frames=1)
    rows, persons_of = [], []
    with tempfile.TemporaryDirectory() as folder:
        for time, (frame, boxes, persons) in enumerate(walk(draw_figures(program, Path(folder) / "figures"))):
            detections = sv.Detections(boxes, confidence=np.full(len(boxes), 0.9), data={"person": persons})
            tracked = tracker.update(detections)
            for track, person, vector in zip(tracked.tracker_id, tracked.data["person"], embed(frame, tracked)):
                if track >= 0:
                    rows.append((time, int(track), vector))
                    persons_of.append(int(person))
    first = join(rows)
    print(f"{len(first)} tracks by motion, {len(set(first.values()))} after joining")
    check([(person, first[track]) for person, (_, track, _) in zip(persons_of, rows)])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
