"""Shards of samples that have several images, each of its own."""

import json

import numpy as np

from tests.data.made import picture, write_tar


def views(number):
    """Return how many images a sample has: 1 to 4."""
    return 1 + number % 4


def sample(number, count=None):
    """The members of one sample; its json lists the images."""
    count = views(number) if count is None else count
    names = ["png", *(f"{at}.png" for at in range(1, count))]
    images = {name: picture(number + 100 * at, size=(40 + at, 32)) for at, name in enumerate(names[:count])}
    fields = {"images": [*images], "number": number}
    return {**images, "txt": f"image number {number}".encode(), "json": json.dumps(fields).encode()}


def write(folder, samples, name="00000.tar"):
    """Write {number: members} as one shard; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    members = [(f"{n:06d}.{ext}", data) for n, own in samples.items() for ext, data in own.items()]
    return str(write_tar(folder / name, members))


def images_of(batch, row):
    """Return a row's images [n, 3, H, W], as many as it has."""
    count = 1 if batch.image_counts is None else int(batch.image_counts[row])
    more = [] if batch.more is None else [x.numpy() for x in batch.more[row, : count - 1]]
    return np.stack([batch.pixels[row].numpy(), *more])
