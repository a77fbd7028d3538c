"""Compares search, scores and explanations with the command line. See tools/python_test.sh."""

import json
import shutil

import numpy
import pytest
from PIL import Image

import lat_wgpu
from conftest import DEMO, TINY, run


@pytest.fixture(scope="module")
def calibrated(crops, tmp_path_factory):
    """A model with a threshold."""
    file = tmp_path_factory.mktemp("calibrated") / "demo.safetensors"
    shutil.copy(DEMO, file)
    run("eval", "--model", file, "--data", crops, "--fpr", "0.2", "--store-threshold")
    return file


def plain(ranking):
    return [{"row": m.row, "path": m.path, "distance": m.distance, "same": m.same} for m in ranking]


def test_search_is_that_of_the_command_line(calibrated, crops, tmp_path):
    model = lat_wgpu.Model(calibrated)
    gallery, query = crops / "bounding_box_test", crops / "query"
    for stored, more in ("gallery.safetensors", []), ("index", ["--append"]):
        run("embed", "--model", calibrated, gallery, "--out", tmp_path / stored, *more)
    arguments = ["search", "--model", calibrated, "--gallery", tmp_path / "gallery.safetensors"]
    found = json.loads(run(*arguments, "--query", query, "--top", 3, "--json", "-"))["queries"]
    assert {match["same"] for ranking in found for match in ranking["results"]} == {True, False}

    for stored in "gallery.safetensors", "index":
        rankings = model.search(tmp_path / stored, query, top=3)
        assert [plain(ranking) for ranking in rankings] == [ranking["results"] for ranking in found]
        assert [ranking.query for ranking in rankings] == [str(query / ranking["query"]) for ranking in found]
    first = rankings[0]
    assert len(first) == 3 and first[0].row == first.matches[0].row and first[-1].row == list(first)[2].row
    with pytest.raises(IndexError):
        first[3]
    compared = run("compare", "--model", calibrated, first.query, gallery / first[0].path, "--json", "-")
    assert first[0].false_match_rate == pytest.approx(json.loads(compared)["false_match_rate"], abs=0.05)

    # A folder of images, and arrays of embeddings and of pixels.
    distances = [[match["distance"] for match in ranking["results"]] for ranking in found]
    rankings = model.search(gallery, query, top=3)
    assert [[match.distance for match in ranking] for ranking in rankings] == distances
    assert rankings[0][0].path == str(gallery / found[0]["results"][0]["path"])
    rows, queries = model.embed(gallery), model.embed(query)
    rankings = model.search(rows, queries, top=3)
    assert [[match.distance for match in ranking] for ranking in rankings] == distances
    assert rankings[0].query is None and rankings[0][0].path is None
    image = Image.open(lat_wgpu.list_images(query)[0])
    assert model.search(rows, image, top=3)[0][0].distance == distances[0][0]
    for result in rankings[0], rankings[0][0], model.search(gallery, query)[0]:
        assert repr(result).startswith("<lat_wgpu.")


def test_searches_that_cannot_be(model, figures, tmp_path):
    with pytest.raises(lat_wgpu.UsageError, match="1024 is the maximum"):
        model.search(numpy.zeros((2000, model.dim), numpy.float32), figures[0], top=1025)
    with pytest.raises(lat_wgpu.UsageError, match="3 dimensions"):
        model.search(numpy.zeros((5, 3), numpy.float32), figures[0])
    run("embed", "--model", TINY, "--heads", "2", *figures, "--out", tmp_path / "other.safetensors")
    with pytest.raises(lat_wgpu.DataError, match="other.safetensors"):
        model.search(tmp_path / "other.safetensors", figures[0])


def test_unreadable_images_of_a_search(model, figures, tmp_path):
    torn = tmp_path / "torn.png"
    torn.write_bytes(figures[0].read_bytes()[:100])
    with pytest.raises(lat_wgpu.ImageError):
        model.search([torn, *figures], figures)
    rankings = model.search([torn, *figures], [torn, figures[0]], on_error="skip")
    assert [ranking.query for ranking in rankings] == [str(figures[0])]
    # Rows are places in the gallery that was given.
    assert rankings[0][0].row == 1 and rankings[0][0].path == str(figures[0]) and rankings[0][0].distance == 0


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({}, []),
        ({"rerank": True, "fpr": 0.1}, ["--rerank", "--fpr", "0.1"]),
        ({"ignore_cameras": True, "query_expansion": True}, ["--ignore-cameras", "--query-expansion"]),
    ],
)
def test_scores_are_those_of_the_command_line(model, crops, options, flags):
    found = model.evaluate(crops, **options)
    assert 0 <= found["map"] <= 1 and found["rank1"] <= found["rank5"]
    assert found == json.loads(run("eval", "--model", DEMO, "--data", crops, *flags, "--json", "-"))


def test_a_folder_without_labels_has_no_scores(model, tmp_path):
    with pytest.raises(lat_wgpu.Error):
        model.evaluate(tmp_path)
    with pytest.raises(lat_wgpu.UsageError, match="fpr"):
        model.evaluate(tmp_path, fpr=2)


def test_explanations_are_those_of_the_command_line(model, figures, pixels, tmp_path):
    drawing, file = tmp_path / "a.png", tmp_path / "a.json"
    run("explain", "--model", DEMO, figures[0], "--out", drawing, "--json", file)
    wanted = json.loads(file.read_text())
    for image in figures[0], pixels[0], Image.open(figures[0]):
        found = model.explain(image)
        assert found.heatmap.dtype == numpy.float64 and found.heatmap.tolist() == wanted["rollout"]
        assert found.parts.tolist() == wanted["parts"] and found.prefix == wanted["prefix"]
        assert numpy.array_equal(found.drawing, numpy.asarray(Image.open(drawing).convert("RGB")))
    assert abs(found.heatmap.sum() - 1) < 1e-9 and "parts" in repr(found)
    with pytest.raises(lat_wgpu.ImageError):
        model.explain(tmp_path / "absent.png")
    with pytest.raises(TypeError):
        model.explain(7)
