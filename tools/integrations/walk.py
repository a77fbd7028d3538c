"""Draws persons who walk across a still image, with the boxes that a detector would find."""

import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

PERSONS, FRAMES = 4, 40
HEIGHT, WIDTH = 720, 640
# The first person is behind something in these frames, and has no box.
HIDDEN = range(15, 22)


def draw_figures(program, folder):
    """Draw each person in eight poses: (PERSONS, 8, 128, 64, 3), R, G, B."""
    size = "--persons", str(PERSONS), "--cameras", "1", "--images", "8", "--seed", "4"
    subprocess.run([program, "synth", folder, *size, "--quiet"], check=True)
    files = sorted(Path(folder).glob("*/[0-9]*_c1*.png"), key=lambda path: path.name)
    files = [path for path in files if not path.name.startswith("0000")]
    figures = np.stack([np.asarray(Image.open(path).convert("RGB").resize((64, 128))) for path in files])
    return figures.reshape(PERSONS, -1, 128, 64, 3)


def walk(figures):
    """Yield each frame, as OpenCV has it (H, W, B-G-R), and the boxes (n, 4) and numbers (n) of the visible persons."""
    for time in range(FRAMES):
        frame = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        boxes, persons = [], []
        for person, poses in enumerate(figures):
            if person == 0 and time in HIDDEN:
                continue
            x = 40 + 12 * time if person % 2 == 0 else WIDTH - 110 - 12 * time
            y = 30 + 165 * person
            frame[y : y + 128, x : x + 64] = poses[time // 5 % len(poses)]
            boxes.append((x, y, x + 64, y + 128))
            persons.append(person)
        yield np.ascontiguousarray(frame[..., ::-1]), np.array(boxes, np.float32), np.array(persons)


def check(tracks):
    """Print the tracks of each person, from pairs (person, track); exit with 1 unless each person has one of its own."""
    found = [sorted({track for walker, track in tracks if walker == person}) for person in range(PERSONS)]
    for person, numbers in enumerate(found):
        print(f"person {person}: tracks {numbers}")
    if any(len(numbers) != 1 for numbers in found) or len({numbers[0] for numbers in found}) != PERSONS:
        raise SystemExit("error: a person has no track, or several, or another's")
