"""Texts that begin alike, as a tree: each token is computed once for all texts that share everything before it.

The text tower is causal, so a token's state depends on its predecessors alone. 100 class names in 80 templates
have about a third of the tokens left, and the numbers stay what they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mmclr.models.clip.blocks import Attention
from mmclr.models.clip.towers import TextTower

BYTES = 1 << 28  # of keys and values that one tree may hold


@dataclass(frozen=True)
class Tree:
    """The distinct beginnings of n rows, by depth. A node is numbered within its depth."""

    ids: list[NDArray[np.int64]]  # per depth: [nodes] token ids
    path: list[NDArray[np.int64]]  # per depth d: [nodes, d + 1] the numbers of a node's ancestors and itself
    ends: list[NDArray[np.int64]]  # per depth: [m, 2] (row, node) of the rows that end there

    @classmethod
    def of(cls, rows: Sequence[list[int]]) -> Tree:
        """Build the tree of rows of ids; none may be empty."""
        order = sorted(range(len(rows)), key=lambda i: rows[i])
        lengths = np.array([len(rows[i]) for i in order])
        table = np.full((len(rows), lengths.max()), -1, np.int64)
        for place, i in enumerate(order):
            table[place, : len(rows[i])] = rows[i]
        fresh = np.ones(table.shape, bool)  # whether a row differs from the one before it, up to here
        fresh[1:] = np.logical_or.accumulate(table[1:] != table[:-1], axis=1)
        fresh &= table >= 0
        number = np.cumsum(fresh, axis=0) - 1  # [n, L] the node that a row passes at each depth
        firsts = [np.flatnonzero(column) for column in fresh.T]
        path = [number[first, : depth + 1] for depth, first in enumerate(firsts)]
        last = [np.flatnonzero(lengths == depth + 1) for depth in range(table.shape[1])]
        ends = [np.stack([np.array(order)[at], number[at, depth]], 1) for depth, at in enumerate(last)]
        return cls([table[first, depth] for depth, first in enumerate(firsts)], path, ends)

    @property
    def size(self) -> int:
        """Nodes of all depths."""
        return sum(map(len, self.ids))


def features(tower: TextTower, rows: Sequence[list[int]]) -> Tensor:
    """Return the tower's features [n, width] of rows of ids, as its forward gives them, up to rounding."""
    width = tower.embeddings.position_embedding.weight.shape[1]
    node = 2 * len(tower.encoder.layers) * width * tower.embeddings.token_embedding.weight.element_size()
    out = tower.embeddings.position_embedding.weight.new_empty(len(rows), width)
    for part in _parts(rows, max(1, BYTES // node)):
        for numbers, x in _walk(tower, Tree.of([rows[i] for i in part])):
            out[[part[i] for i in numbers]] = x.to(out.dtype)
    return tower.final_layer_norm(out)


def saving(rows: Sequence[list[int]]) -> float:
    """Return how many times fewer tokens the tree has than the rows."""
    return sum(map(len, rows)) / Tree.of(rows).size if len(rows) else 1.0


def _parts(rows: Sequence[list[int]], nodes: int) -> Iterator[list[int]]:
    """Cut the rows, in sorted order so that those which begin alike stay together, into trees of so many nodes."""
    part: list[int] = []
    size, before = 0, list[int]()
    for i in sorted(range(len(rows)), key=lambda i: rows[i]):
        shared = next((k for k, (a, b) in enumerate(zip(before, rows[i])) if a != b), min(len(before), len(rows[i])))
        if part and size + len(rows[i]) - shared > nodes:
            yield part
            part, size, shared = [], 0, 0
        part.append(i)
        size, before = size + len(rows[i]) - shared, rows[i]
    if part:
        yield part


def _walk(tower: TextTower, tree: Tree) -> Iterator[tuple[list[int], Tensor]]:
    """Go down the tree; yield, where rows end, their numbers and their last token after the last block."""
    layers = list(tower.encoder.layers)
    cache: list[list[tuple[Tensor, Tensor]]] = [[] for _ in layers]  # per layer and depth: keys, values [nodes, width]
    device = tower.embeddings.token_embedding.weight.device
    for depth, (ids, path, ends) in enumerate(zip(tree.ids, tree.path, tree.ends)):
        tokens, places = torch.from_numpy(ids).to(device), torch.from_numpy(path).to(device)
        x = tower.embeddings(tokens, torch.full_like(tokens, depth))
        for number, block in enumerate(layers):
            attention, normed = block.self_attn, block.layer_norm1(x)
            cache[number].append((attention.k_proj(normed), attention.v_proj(normed)))
            if number == len(layers) - 1:  # nothing reads the last block but the rows' ends
                last = torch.from_numpy(ends[:, 1].copy()).to(device)
                x, normed, places = x[last], normed[last], places[last]
            x = x + _attend(attention, normed, cache[number], places)
            x = x + block.mlp(block.layer_norm2(x))
        if len(ends):
            yield ends[:, 0].tolist(), x


def _attend(attention: Attention, normed: Tensor, cache: Sequence[tuple[Tensor, Tensor]], path: Tensor) -> Tensor:
    """Attend from each node [n, width] to its path [n, d + 1]."""
    keys, values = (
        torch.stack([level[side][path[:, j]] for j, level in enumerate(cache)], 1).unflatten(-1, (attention.heads, -1))
        for side in (0, 1)
    )
    query = attention.q_proj(normed).unflatten(-1, (attention.heads, 1, -1))
    out = F.scaled_dot_product_attention(query, keys.transpose(1, 2), values.transpose(1, 2))
    return attention.out_proj(out.flatten(1))
