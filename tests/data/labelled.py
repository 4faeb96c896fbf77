"""Shards with cluster labels beside them."""

import json

import numpy as np

from mmclr.config import check
from mmclr.data.columns import clusters
from mmclr.data.shards.index import open_indices
from mmclr.data.stream.loader import DataConfig, Loader


def label(folder, rule, name="clusters", top=1, count=7):
    """Write labels by a rule from a sample's number to its clusters."""
    indices = open_indices(sorted(map(str, folder.glob("*.tar"))))
    keys = [index.keys() for index in indices]
    labels = [np.array([rule(int(key)) for key in own], np.int32).reshape(-1, top) for own in keys]
    clusters.write(indices, name, labels, {"clusters": count})


def old_label(folder, rule, count=7):
    """Write labels as earlier versions did: SHARD.clusters.npy and clusters.clusters.json."""
    for index in open_indices(sorted(map(str, folder.glob("*.tar")))):
        rows = np.array([[rule(int(key))] for key in map(index.key, range(len(index)))], np.int32)
        np.save(f"{index.url}.clusters.npy", rows)
    (folder / "clusters.clusters.json").write_text(json.dumps({"clusters": count}))


def loader(folder, tokenizer, rank=0, world=1, **settings):
    tree = {"train": f"{folder}/*.tar", "batch": 6, "workers": 0, **settings}
    return Loader(check(DataConfig, tree), tokenizer, 16, seed=3, rank=rank, world=world)


def numbers(batch):
    return [int(key) for key in batch.keys]


def all_of(folder):
    return open_indices(sorted(map(str, folder.glob("*.tar"))))
