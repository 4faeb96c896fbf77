"""Shards, a tokenizer, and loaders over them."""

import pytest

from mmclr.config import load
from mmclr.data.samples.text import Tokenizer
from mmclr.data.stream.loader import DataConfig, Loader
from tests.data.made import pair, write_shards, write_tar


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.train([f"image number {n}" for n in range(100)], size=600, context=16)


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """53 samples in 4 shards, one of them empty."""
    return write_shards(tmp_path_factory.mktemp("shards"), [20, 0, 30, 3])


@pytest.fixture
def make_loader(shards, tokenizer):
    """Loader(**settings) over `shards`, 24 px, seed 1."""

    def make(rank=0, world=1, captions=1, size=24, seed=1, **settings):
        config = load(DataConfig, {"train": shards, "batch": 12, "workers": 0, **settings})
        return Loader(config, tokenizer, size, seed, rank, world, captions)

    return make


@pytest.fixture
def numbered(tmp_path):
    """Three shards of 30 samples whose number is in their text; the last of each has no image."""
    for shard in range(3):
        members = []
        for number in range(30 * shard, 30 * shard + 30):
            own = pair(number)
            own.pop("png") if number % 30 == 29 else None
            members += [(f"{number:04d}.{ending}", data) for ending, data in own.items()]
        write_tar(tmp_path / f"{shard}.tar", members)
    return tmp_path
