"""Sends `lat-wgpu serve` requests that its OpenAPI file allows and forbids, by Schemathesis. See tools/python_test.sh."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = os.environ["LAT_PROGRAM"]
DEMO = os.environ["LAT_DEMO"]


def test_answers_are_as_described(tmp_path):
    run = lambda *words: subprocess.run([PROGRAM, *words, "--quiet"], cwd=tmp_path, check=True)
    run("synth", "figures", "--persons", "4", "--cameras", "2", "--images", "1")
    run("embed", "--model", DEMO, "figures/bounding_box_test", "--out", "gallery.npy")
    serve = ["serve", "--model", DEMO, "--gallery", "gallery.npy", "--images", "figures/bounding_box_test", "--port", "0"]
    server = subprocess.Popen([PROGRAM, *serve], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().split()[-1]
        # A valid request may hold a file that is no image.
        checks = "--exclude-checks", "positive_data_acceptance", "--max-examples", "15", "--seed", "1"
        schemathesis = Path(sys.executable).with_name("schemathesis")
        subprocess.run([schemathesis, "run", f"{address}/openapi.json", *checks], cwd=tmp_path, check=True)
    finally:
        server.terminate()
        assert server.wait(30) == 0
