"""A tower, ours or another library's, and the questions that features of training ask it.

FSDP, Muon, torch.compile, layer decay, locks and activation checkpointing work block by block. None of them knows a
tower by the names of its weights: they ask for `blocks` and `stages`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from mmclr.errors import UserError
from mmclr.models.chain import chain, links


class Tower(nn.Module):
    """A module that is, in the middle, a chain of blocks."""

    part = ""  # of the model, as configs call it
    last: frozenset[str] = frozenset()  # names of weights that stand before the first block and work behind the last

    def blocks(self) -> Sequence[nn.Module]:
        """Return the blocks in the order in which data pass them: units of memory, of compiling, of Muon."""
        raise NotImplementedError

    def stages(self) -> Sequence[nn.Module]:
        """Return the units of depth, for layer decay and locks: the blocks, or groups of them; or none."""
        return self.blocks()

    @property
    def called(self) -> str:
        """The tower's name in messages."""
        return f"the {self.part} tower"


class LibraryTower(Tower):
    """A tower of another library, which lies in `model`; its blocks are found by its structure."""

    model: Any

    def blocks(self) -> Sequence[nn.Module]:
        """Return the blocks: the library's residual blocks where it has such."""
        return links(chain(self.model))

    def stages(self) -> Sequence[nn.Module]:
        """Return the blocks of a transformer; the stages of what is made of stages."""
        return chain(self.model)

    @property
    def called(self) -> str:
        """The tower's name in messages: its class in the library is named, too."""
        return f"the {self.part} tower ({type(self.model).__name__})"


def towers(module: nn.Module) -> Iterator[Tower]:
    """Yield the towers within a module, in the order of its modules."""
    return (inner for inner in module.modules() if isinstance(inner, Tower))


def blocks_for(feature: str, tower: Tower) -> Sequence[nn.Module]:
    """Return a tower's blocks for a feature that works on them; raise UserError where none can be told apart."""
    found = tower.blocks()
    if not found:
        raise UserError(f"{feature}: {tower.called} is no chain of blocks, and it works on these; do without it")
    return found


def matrices(blocks: Sequence[nn.Module]) -> Iterator[Tensor]:
    """Yield the weights in blocks that multiply: of linear layers, attention and convolutions."""
    for block in blocks:
        for module in block.modules():
            if not isinstance(module, nn.Embedding):
                own = module.named_parameters(recurse=False)
                yield from (p for name, p in own if p.ndim > 1 and name.endswith("weight"))
