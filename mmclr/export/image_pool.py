"""The learnt pool of several images in an export: a model of its own in image_pool/, which AutoModel loads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mmclr.export import forms
from mmclr.export.origin import DTYPES, Source
from mmclr.models.foreign.libraries.transformers import quiet
from mmclr.models.pooling import pool, transformers_model
from mmclr.models.two_tower import TwoTower

GRAPH = "image_pool.onnx"
CODE = "modeling_image_pool"  # the file that machines without mmclr run
Pool = Callable[[Tensor, Tensor], Tensor]  # features [n, k, D], which are there bool [n, k] -> unit vectors [n, D]


def is_learnt(model: TwoTower) -> bool:
    """Whether a model pools several images by weights of its own."""
    return model.config.image_pool == "attention"


def to_transformers(model: TwoTower) -> transformers_model.ImagePoolModel:
    """Return the learnt pool of a model as a model of transformers."""
    peer = transformers_model.ImagePoolModel(transformers_model.ImagePoolConfig(width=model.config.embed))
    peer.load_state_dict(pool.only(model.state_dict()))
    return peer.eval()


def fill(source: Source, folder: Path) -> None:
    """Write image_pool/ into the folder of an export: weights, code and config; of another kind its name alone."""
    if not is_learnt(source.model):
        pool.save(folder, source.model.config, {})
        return
    peer, own = to_transformers(source.model), folder / pool.FOLDER
    names = {"AutoConfig": transformers_model.ImagePoolConfig, "AutoModel": transformers_model.ImagePoolModel}
    peer.config.auto_map = {auto: f"{CODE}.{cls.__name__}" for auto, cls in names.items()}
    forms.save(peer, own, DTYPES[source.dtype])
    shutil.copy(transformers_model.__file__, own / f"{CODE}.py")


def load(folder: Path) -> Pool | None:
    """Return how an export pools images, in float32; None where it has no learnt pool."""
    from transformers import AutoModel

    if not (folder / pool.FOLDER / "model.safetensors").is_file():
        return None
    with quiet():
        model = AutoModel.from_pretrained(folder / pool.FOLDER, dtype=torch.float32, local_files_only=True).eval()
    return lambda features, there: model(features, there)


def differing(source: Source, peer: Pool | None, own: Tensor, theirs: Tensor) -> dict[str, float]:
    """Return by how much pooled features differ, where the pool is learnt: of 1 and of all but 1 of n images.

    own: embeddings [n, D] of the checkpoint; theirs: features [n, D] of the export.
    """
    if not is_learnt(source.model) or peer is None:
        return {}
    counts = torch.tensor([1, len(own) - 1])
    there = torch.arange(len(own) - 1) < counts[:, None]
    pooled = peer(pool.in_slots(theirs, counts, there.shape[1]), there)
    return {"pooled_features": float((source.model.pool(own, counts) - pooled).abs().max())}
