#!/usr/bin/env python3
"""Track drawn persons with BoxMOT's BoT-SORT, which embeds by a model of `lat-wgpu export`.

    pip install 'boxmot[onnx]'
    lat-wgpu export --to onnx --for boxmot --out lat_wgpu_boxmot.onnx
    python3 tools/integrations/boxmot_track.py lat-wgpu lat_wgpu_boxmot.onnx

In a program of your own, replace `walk` by frames of a video and the boxes of a detector. Exit code 1 if a person has
several tracks.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from boxmot import BotSort

from walk import check, draw_figures, walk


def main(program, model):
    tracker = BotSort(reid_weights=Path(model), device="cpu", half=False, use_cmc=False)
    tracks = []
    with tempfile.TemporaryDirectory() as folder:
        for frame, boxes, persons in walk(draw_figures(program, Path(folder) / "figures")):
            # Corners, confidence, class.
            detections = np.column_stack([boxes, np.full(len(boxes), 0.9), np.zeros(len(boxes))])
            # The last column is the row of the detection.
            for row in np.asarray(tracker.update(detections, frame)):
                tracks.append((int(persons[int(row[7])]), int(row[4])))
    check(tracks)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
