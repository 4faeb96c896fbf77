"""torch.compile, block by block: one graph for all blocks of a kind, of any number of rows and tokens."""

from __future__ import annotations

import shutil

import torch

from mmclr.errors import UserError
from mmclr.models.clip.blocks import Attention
from mmclr.models.tower import blocks_for, towers
from mmclr.models.two_tower import TwoTower


def compile_blocks(model: TwoTower) -> None:
    """Compile the blocks of all towers, those of other libraries, too.

    How the lengths of packed texts are grouped differs in every batch, so attention over them stays outside of the
    graphs, which see the sum of all lengths as a symbol: no new batch makes a new graph.
    """
    if not torch.cuda.is_available() and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise UserError("compile: torch.compile needs a C++ compiler here (g++), and there is none; set compile: false")
    for module in model.modules():
        if isinstance(module, Attention):
            for name in ("by_length", "pool_by_length"):
                setattr(module, name, torch.compiler.disable(getattr(module, name)))
    for tower in towers(model):
        for block in blocks_for("compile", tower):
            block.compile(dynamic=True)
