"""Ranks the photos of a folder by how much they look like one photo of a person.

    pip install lat-wgpu        # or build the wheel, see docs/reference/python.md
    python examples/own_photos.py photos person.png
"""

import sys

import lat_wgpu

if len(sys.argv) != 3:
    sys.exit("usage: own_photos.py FOLDER PHOTO")
folder, photo = sys.argv[1:]

# Without a name it is the model that the command line takes without --model.
model = lat_wgpu.Model(progress=True)
print(model)

# Photos that can't be read are left out, with a warning. A bar shows the progress in a terminal.
[ranking] = model.search(folder, photo, top=5, on_error="skip", progress=True)

print(f"{ranking.query} looks most like")
for place, match in enumerate(ranking, start=1):
    print(f"{place:3}  {match.distance:.4f}  {match.path}")
