#!/usr/bin/env python3
"""Track drawn persons with Ultralytics' BoT-SORT, which embeds by a model of `lat-wgpu export`.

    pip install ultralytics onnxruntime
    lat-wgpu export --to onnx --for ultralytics --out lat_wgpu_ultralytics.onnx
    python3 tools/integrations/ultralytics_track.py lat-wgpu lat_wgpu_ultralytics.onnx

With a detector, write the two lines `with_reid: True` and `model: lat_wgpu_ultralytics.onnx` into a copy of
botsort.yaml, and pass it: `YOLO("yolo26n.pt").track("video.mp4", tracker="botsort.yaml")`. Exit code 1 if a person has
several tracks.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from ultralytics.engine.results import Boxes
from ultralytics.trackers import BOTSORT
from ultralytics.utils import YAML, IterableSimpleNamespace
from ultralytics.utils.checks import check_yaml

from walk import check, draw_figures, walk


def main(program, model):
    settings = YAML.load(check_yaml("botsort.yaml"))
    settings |= {"with_reid": True, "model": model, "gmc_method": "none", "device": "cpu"}
    tracker = BOTSORT(IterableSimpleNamespace(**settings))
    tracks = []
    with tempfile.TemporaryDirectory() as folder:
        for frame, boxes, persons in walk(draw_figures(program, Path(folder) / "figures")):
            # Corners, confidence, class.
            rows = np.column_stack([boxes, np.full(len(boxes), 0.9), np.zeros(len(boxes))])
            detections = Boxes(rows.astype(np.float32), frame.shape[:2])
            # The last column is the row of the detection.
            for row in tracker.update(detections, frame):
                tracks.append((int(persons[int(row[-1])]), int(row[4])))
    check(tracks)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
