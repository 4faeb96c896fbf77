"""A tiny run: 60 images of coloured squares in three shards, a model that trains in seconds."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from mmclr.data.columns import clusters
from mmclr.data.shards.index import open_indices

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 30), "blue": (30, 30, 200), "white": (240, 240, 240)}
PLACES = {"left": (4, 2), "right": (4, 18), "top": (0, 8), "bottom": (18, 8)}


def member(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """Return the brace URL of the shards."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(3):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i in range(20 * shard, 20 * shard + 20):
                colour, place = list(COLOURS)[i % 4], list(PLACES)[i // 4 % 4]
                pixels = np.full((32, 32, 3), 120, np.uint8)
                y, x = PLACES[place]
                pixels[y : y + 12, x : x + 12] = COLOURS[colour]
                pixels[-1, -1] = i
                png = io.BytesIO()
                Image.fromarray(pixels).save(png, "PNG")
                member(tar, f"{i:06d}.png", png.getvalue())
                member(tar, f"{i:06d}.txt", f"a {colour} square at the {place}".encode())
    label(folder)
    return str(folder / "{00000..00002}.tar")


def label(folder):
    """Write cluster labels beside the shards: two of four clusters of each image, and a coarser kind for batches."""
    indices = open_indices([str(folder / f"{shard:05d}.tar") for shard in range(3)])
    numbers = np.arange(60, dtype=np.int32).reshape(3, 20, 1)
    clusters.write(indices, "clusters", np.concatenate([numbers % 4, (numbers + 1) % 4], 2), {"clusters": 4})
    clusters.write(indices, "stage0", numbers % 2, {"clusters": 2})


@pytest.fixture
def settings(shards, tmp_path):
    """Return the overrides of a run in its own folder."""
    return [f"data.train={shards}", f"out={tmp_path / 'run'}", "steps=12", "average.decay=0.9", "patch_dropout=0.25"]
