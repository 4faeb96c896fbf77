"""Several images of one sample (a product's photos, a study's views) to one embedding: the rule, and its own folder.

A pool that is not the default lies beside a model's weights in image_pool/, a model of its own as a captioner is: so
the folder itself stays the CLIPModel that it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr.errors import UserError
from mmclr.models.config import ModelConfig, Pool
from mmclr.models.formats.weights import read_weights, write_weights
from mmclr.storage.json_file import read_json

FOLDER, PREFIX = "image_pool", "image_pool."
KIND = "mmclr_image_pool"  # model_type of its config.json


class ImagePool(nn.Module):
    """Unit-norm embeddings u_1 ... u_n of a sample's n images -> one: p = sum_i a_i u_i, divided by its length.

    mean        a_i = 1 / n
    attention   a_i = exp(w . tanh(V u_i)) / sum_j exp(w . tanh(V u_j)), with V [D // 4, D] and w [D // 4] learnt
    first       a_1 = 1, the others 0

    With one image p is u_1 itself, to the bit. attention is Ilse, Tomczak and Welling, Attention-based Deep Multiple
    Instance Learning, ICML 2018, arXiv 1802.04712, equations 7 and 8. Reduces to mean where w = 0, which is its value
    at the start. Differs from the paper: what is pooled are unit vectors, and the sum becomes one.
    """

    def __init__(self, kind: Pool, width: int) -> None:
        super().__init__()
        self.kind = kind
        learnt, hidden = kind == "attention", max(1, width // 4)
        self.hidden = nn.Linear(width, hidden, bias=False) if learnt else None
        self.score = nn.Linear(hidden, 1, bias=False) if learnt else None
        if self.hidden is not None and self.score is not None:
            nn.init.normal_(self.hidden.weight)  # of a unit vector it makes numbers of variance 1
            nn.init.zeros_(self.score.weight)

    def forward(self, images: Tensor, counts: Tensor) -> Tensor:
        """Embeddings [b, K, D], of which the first counts [b] >= 1 of each row are images -> [b, D]."""
        first = images[:, 0]
        if self.kind == "first":
            return first
        there = torch.arange(images.shape[1], device=images.device) < counts[:, None]
        pooled = (self._shares(images, there)[..., None] * images).sum(1)
        return torch.where(counts[:, None] == 1, first, F.normalize(pooled, dim=-1))

    def _shares(self, images: Tensor, there: Tensor) -> Tensor:
        """Return a_i [b, K], 0 where there is no image."""
        if self.hidden is None or self.score is None:
            return there.to(images.dtype) / there.sum(1, keepdim=True)
        scores = self.score(torch.tanh(self.hidden(images)))[..., 0]
        return scores.masked_fill(~there, -torch.inf).softmax(1)


def in_slots(rows: Tensor, counts: Tensor, slots: int) -> Tensor:
    """Rows [n, ...], of which counts [b] belong to each sample in turn -> [b, slots, ...], 0 behind them."""
    there = torch.arange(slots, device=rows.device) < counts[:, None]
    at = there.flatten().nonzero()[:, 0]
    out = rows.new_zeros(len(counts) * slots, *rows.shape[1:]).index_copy(0, at, rows)
    return out.unflatten(0, (len(counts), slots))


def save(folder: Path, config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
    """Write the pool of a model with these weights into its own folder; none where it is the default."""
    if config.image_pool == "mean":
        return
    (folder / FOLDER).mkdir(exist_ok=True)
    tree = {"model_type": KIND, "kind": config.image_pool, "width": config.embed}
    (folder / FOLDER / "config.json").write_text(json.dumps(tree, indent=2))
    if own := only(weights):
        write_weights(own, folder / FOLDER / "model.safetensors")


def read_kind(folder: Path) -> Pool:
    """Return how a model folder pools. Raises UserError where it names no way that there is."""
    path = folder / FOLDER / "config.json"
    kind = read_json(path).get("kind") if path.is_file() else "mean"
    for known in get_args(Pool):
        if kind == known:
            return known
    raise UserError(f"{path}: its kind is {str(kind)[:40]!r}, and no pool of ours; copy it again")


def read(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a model folder's pool, {} where it has none."""
    return only(read_weights(folder / FOLDER / "model.safetensors")) if read_kind(folder) == "attention" else {}


def only(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the pool's own among a model's weights."""
    return {name: value for name, value in weights.items() if name.startswith(PREFIX)}
