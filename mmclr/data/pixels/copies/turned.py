"""Copies of images that are turned by quarters, or whose tiles change places, for objectives that ask which it was.

Gidaris et al., Unsupervised Representation Learning by Predicting Image Rotations, ICLR 2018, arXiv 1803.07728;
Noroozi and Favaro, Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles, ECCV 2016, arXiv
1603.09246. Differs from the latter: the tiles stay in one image, which the tower sees at once.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mmclr import sample_random

GRID = 3  # tiles along a side
ORDERS = 35  # of the tiles, as in ScatSimCLR (arXiv 2108.13939)
CANDIDATES = 512  # random orders from which the next one is taken
TURNS = {"rotation": range(4), "jigsaw": range(ORDERS)}


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn square images [n, C, H, H] clockwise by turn [n] quarters."""
    if x.shape[2] != x.shape[3]:
        raise ValueError(f"only square images can be turned by a quarter, not {x.shape[2]} x {x.shape[3]}")
    out = x.clone()
    for quarters in (1, 2, 3):
        at = (turn == quarters)[:, None, None, None]
        out = torch.where(at, torch.rot90(x, -quarters, (2, 3)), out)
    return out


def jigsaw(x: Tensor, turn: Tensor) -> Tensor:
    """Put the nine tiles of images [n, C, H, W] into the order turn [n] of `orders`; 0 is the order they have.

    Where a side is no multiple of three, one or two rows stay where they are, at the border.
    """
    h, w = (side // GRID * GRID for side in x.shape[2:])
    top, left = (x.shape[2] - h) // 2, (x.shape[3] - w) // 2
    middle = x[:, :, top : top + h, left : left + w]
    tiles = middle.unflatten(3, (GRID, -1)).unflatten(2, (GRID, -1)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    chosen = torch.tensor(orders(), device=x.device)[turn]  # [n, 9]: which tile comes to each place
    tiles = tiles[torch.arange(len(x), device=x.device)[:, None], chosen]
    out = x.clone()
    moved = tiles.unflatten(1, (GRID, GRID)).permute(0, 3, 1, 4, 2, 5)
    out[:, :, top : top + h, left : left + w] = moved.flatten(4, 5).flatten(2, 3)
    return out


@functools.cache
def orders(count: int = ORDERS, seed: int = 0) -> tuple[tuple[int, ...], ...]:
    """Return orders of nine tiles that differ in as many places as can be: each next one is the farthest of many.

    The first is the one they have. Always the same for the same arguments.
    """
    generator = torch.Generator().manual_seed(seed)
    found = torch.arange(GRID**2)[None]
    while len(found) < count:
        drawn = torch.rand(CANDIDATES, GRID**2, generator=generator).argsort(1)
        apart = (drawn[:, None] != found).sum(2).amin(1)
        found = torch.cat([found, drawn[apart.argmax()][None]])
    return tuple(tuple(order) for order in found.tolist())


@dataclass(frozen=True)
class Turned:
    """Makes one copy of each image, turned in one of TURNS[kind] ways."""

    count: int
    kind: str
    says: ClassVar[str] = "turn"

    def pixels(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """Pixels [b, C, H, W] -> [b, 1, C, H, W] of their type."""
        turn = self.said(draws)[:, 0]
        return (rotate(pixels, turn) if self.kind == "rotation" else jigsaw(pixels, turn))[:, None]

    def said(self, draws: Tensor) -> Tensor:
        """Return which turn it is, int64 [b, 1]."""
        share = sample_random.uniform(draws, draws.new_tensor(3), self.count)
        return (share * len(TURNS[self.kind])).long()
