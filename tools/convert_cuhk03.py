#!/usr/bin/env python3
"""Convert CUHK03's published MATLAB files to the folders and lists that lat-wgpu reads.

    python3 tools/convert_cuhk03.py cuhk-03.mat OUT --new-labelled cuhk03_new_protocol_config_labeled.mat \\
        --new-detected cuhk03_new_protocol_config_detected.mat
    python3 tools/convert_cuhk03.py --self-test

cuhk-03.mat (HDF5) holds the images and the 20 classic test sets; the two files of the new protocol are optional. In OUT:

    labelled/P_NNN_V_II.png, detected/P_NNN_V_II.png    pair of cameras, person, view (1, 2), image (1 to 10)
    classic_01.txt … classic_20.txt                     a line P_NNN for each test person
    new_labelled.txt, new_detected.txt                  a line `train|query|gallery P_NNN_V_II.png` for each image

Needs h5py, numpy and Pillow, and scipy for the new protocol.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

# Images of a person: five of each view.
PER_VIEW = 5


def write_images(mat, boxes, folder):
    """Save every image of `mat[boxes]` as PNG and return their number.

    `boxes` refers to a matrix of references for each pair of cameras: (persons, 10) in MATLAB. HDF5 has the axes of MATLAB's
    arrays in reverse, so images are (3, width, height).
    """
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for pair, reference in enumerate(mat[boxes][0], 1):
        for person, references in enumerate(mat[reference][:].T, 1):
            for place, reference in enumerate(references):
                image = np.asarray(mat[reference]).T
                # A view with fewer than five images has empty cells.
                if image.ndim != 3 or image.size == 0:
                    continue
                view = 1 if place < PER_VIEW else 2
                name = f"{pair}_{person:03}_{view}_{place + 1:02}.png"
                Image.fromarray(np.ascontiguousarray(image, np.uint8)).save(folder / name)
                count += 1
    return count


def write_classic(mat, out):
    """Write the test persons of every classic split and return the number of splits."""
    splits = mat["testsets"][0]
    for split, reference in enumerate(splits, 1):
        persons = sorted((int(pair), int(person)) for pair, person in mat[reference][:].T)
        lines = [f"{pair}_{person:03}\n" for pair, person in persons]
        (out / f"classic_{split:02}.txt").write_text("".join(lines))
    return len(splits)


def write_new(file, list_file):
    """Write a list of the new protocol and return the number of images in train, query and gallery."""
    from scipy.io import loadmat

    config = loadmat(file)
    names = [str(name[0]) for name in config["filelist"].flatten()]
    lines, counts = [], []
    for split in ("train", "query", "gallery"):
        places = config[f"{split}_idx"].flatten().astype(int) - 1
        lines += [f"{split} {names[place]}\n" for place in places]
        counts.append(len(places))
    list_file.write_text("".join(lines))
    return counts


def convert(release, out, new):
    import h5py

    out.mkdir(parents=True, exist_ok=True)
    with h5py.File(release, "r") as mat:
        for boxes, folder in (("labeled", "labelled"), ("detected", "detected")):
            print(f"{folder}: {write_images(mat, boxes, out / folder)} images")
        print(f"classic protocol: {write_classic(mat, out)} splits")
    for boxes, file in new.items():
        if file:
            counts = write_new(file, out / f"new_{boxes}.txt")
            print(f"new protocol, {boxes}: {counts[0]} train, {counts[1]} query, {counts[2]} gallery")


def self_test():
    """Convert files of the published form with two pairs of cameras and two persons each."""
    import h5py
    from PIL import Image
    from scipy.io import savemat

    def image(pair, person, place):
        # 6 high and 4 wide, with different pixels. The last person has only the first image of each view.
        if (pair, person) == (2, 2) and place % PER_VIEW:
            return np.zeros((0, 0), np.uint8)
        rows = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
        return rows + np.uint8(100 * (pair - 1) + 50 * (person - 1) + 5 * place)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        with h5py.File(folder / "cuhk-03.mat", "w") as mat:
            store = mat.create_group("#refs#")

            def refer(value):
                return store.create_dataset(str(len(store)), data=np.asarray(value).T).ref

            def references(rows):
                return refer(np.array(rows, dtype=h5py.ref_dtype))

            for boxes in ("labeled", "detected"):
                pairs = [
                    references([[refer(image(pair, person, place)) for place in range(10)] for person in (1, 2)])
                    for pair in (1, 2)
                ]
                mat.create_dataset(boxes, data=np.array([pairs], dtype=h5py.ref_dtype))
            tests = [refer(np.array(persons, float)) for persons in ([[2, 1], [1, 2]], [[1, 1]])]
            mat.create_dataset("testsets", data=np.array([tests], dtype=h5py.ref_dtype))
        names = np.array(["1_001_1_01.png", "1_002_1_01.png", "1_002_2_06.png", "2_001_1_03.png"], object)
        splits = {"train_idx": [[4, 1]], "query_idx": [[2]], "gallery_idx": [[3]]}
        savemat(folder / "new.mat", {"filelist": names[:, None], "labels": [[1], [2], [2], [3]], **splits})

        out = folder / "out"
        convert(folder / "cuhk-03.mat", out, {"labelled": folder / "new.mat", "detected": None})
        for boxes in ("labelled", "detected"):
            files = sorted((out / boxes).iterdir())
            assert len(files) == 3 * 10 + 2, files
            assert [file.name for file in files[-2:]] == ["2_002_1_01.png", "2_002_2_06.png"]
            found = np.asarray(Image.open(out / boxes / "2_001_2_07.png"))
            assert (found == image(2, 1, 6)).all()
        assert (out / "classic_01.txt").read_text() == "1_002\n2_001\n"
        assert (out / "classic_02.txt").read_text() == "1_001\n"
        wanted = "train 2_001_1_03.png\ntrain 1_001_1_01.png\nquery 1_002_1_01.png\ngallery 1_002_2_06.png\n"
        assert (out / "new_labelled.txt").read_text() == wanted
        assert not (out / "new_detected.txt").exists()
    print("self-test passed")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("release", nargs="?", type=Path, metavar="cuhk-03.mat")
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT")
    parser.add_argument("--new-labelled", type=Path, metavar="FILE")
    parser.add_argument("--new-detected", type=Path, metavar="FILE")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        self_test()
        return
    if not arguments.release or not arguments.out:
        parser.error("cuhk-03.mat and OUT are needed (or --self-test)")
    new = {"labelled": arguments.new_labelled, "detected": arguments.new_detected}
    try:
        convert(arguments.release, arguments.out, new)
    except (OSError, KeyError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
