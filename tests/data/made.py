"""Shards made on the spot, images that tell their number, and streams taken apart for comparison."""

import hashlib
import io
import json
import tarfile
from itertools import islice

import numpy as np
from PIL import Image

RANDOM = {
    "augment": {"crop_scale": [0.3, 1.0], "flip": 0.5, "shift": 0.1, "zoom": [0.8, 1.3], "brightness": 0.4, "hue": 0.1,
                "contrast": 0.3, "grey": 0.2, "blur": 0.5},
    "caption": {"txt": 1, "json:tags": 2},
}  # fmt: skip


def take(loader, count):
    batches = iter(loader)
    out = list(islice(batches, count))
    batches.close()
    return out


def rows(batch):
    """Everything about each row that training sees, padding of tokens aside."""
    out = []
    for i, key in enumerate(batch.keys):
        ids = batch.tokens[i, : batch.lengths[i]].tolist()
        numbers = [int(getattr(batch, name)[i]) for name in ("index", "image_id", "caption_id", "label")]
        pixels = hashlib.sha1(batch.pixels[i].contiguous().numpy().tobytes()).hexdigest()
        out.append((key, pixels, tuple(ids), *numbers, float(batch.weights[i])))
    return out


def picture(number, size=(40, 32), kind="PNG"):
    """A gradient that no other number has."""
    x = np.arange(size[0])[None, :, None] * np.array([3, 1, 2])
    y = np.arange(size[1])[:, None, None] * np.array([1, 4, 2])
    pixels = (x + y + np.array([number * 7, number * 11, number * 13])) % 256
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, kind)
    return out.getvalue()


def pair(number, kind="png"):
    """The members of one sample."""
    return {
        kind: picture(number, kind={"jpg": "JPEG", "png": "PNG"}[kind]),
        "txt": f"image number {number}".encode(),
        "json": json.dumps(
            {"number": number, "title": f"title {number}", "tags": [f"a{number}", f"b{number}"]}
        ).encode(),
    }


def write_tar(path, members, fmt=tarfile.USTAR_FORMAT):
    """Write (name, bytes) members."""
    with tarfile.open(path, "w", format=fmt) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_shards(folder, sizes, start=0):
    """Write shards of these sizes; samples are numbered on from `start`."""
    folder.mkdir(parents=True, exist_ok=True)
    number = start
    for shard, size in enumerate(sizes):
        rows = range(number, number + size)
        write_tar(
            folder / f"{shard:05d}.tar", [(f"{n:06d}.{ext}", data) for n in rows for ext, data in pair(n).items()]
        )
        number += size
    return str(folder / "*.tar")


def contents(folder):
    """Every member of every shard of a folder, in order."""
    out = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            out += [(m.name, archive.extractfile(m).read()) for m in archive]
    return out
