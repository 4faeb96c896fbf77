"""Random values of features, realistic ones: for laws, examples and dry runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr import batch_fields


@dataclass(frozen=True)
class Sizes:
    """The sizes from which `example` makes a feature; letters as in the legend of `mmclr.vocabulary`."""

    b: int = 6
    D: int = 8
    M: int = 2
    V: int = 2
    X: int = 2
    Q: int = 2
    T: int = 2
    P: int = 4
    R: int = 5
    H: int = 7
    L: int = 4  # of which L - 1 are predicted
    N: int = 7
    W: int = 6
    C: int = 3
    G: int = 4
    O: int = 2  # noqa: E741
    S: int = 2
    dtype: torch.dtype = torch.float64

    def shape(self, letters: Iterable[str]) -> list[int]:
        """Return the size of each letter; a digit is its own."""
        return [int(letter) if letter.isdigit() else getattr(self, letter) for letter in letters]


def unit(*letters: str) -> Callable[[Sizes, torch.Generator], Tensor]:
    """Return a maker of unit vectors; letters are those of `Sizes`, or digits."""

    def make(sizes: Sizes, generator: torch.Generator) -> Tensor:
        x = torch.randn(sizes.shape(letters), generator=generator, dtype=torch.float64)
        return F.normalize(x, dim=-1).to(sizes.dtype)

    return make


def normal(*letters: str) -> Callable[[Sizes, torch.Generator], Tensor]:
    """Return a maker of normal numbers; letters are those of `Sizes`, or digits."""

    def make(sizes: Sizes, generator: torch.Generator) -> Tensor:
        return torch.randn(sizes.shape(letters), generator=generator, dtype=torch.float64).to(sizes.dtype)

    return make


def number(value: float) -> Callable[[Sizes, torch.Generator], Tensor]:
    """Return a maker of a scalar."""
    return lambda sizes, generator: torch.tensor(value, dtype=sizes.dtype)


def ids(sizes: Sizes, generator: torch.Generator) -> Tensor:
    """Draw ids of which some are equal."""
    return torch.randint(0, max(2, 2 * sizes.b // 3), (sizes.b,), generator=generator)


def index(sizes: Sizes, generator: torch.Generator) -> Tensor:
    """Draw different positions in a data set four times as large."""
    return torch.randperm(4 * sizes.b, generator=generator)[: sizes.b]


def states(sizes: Sizes, generator: torch.Generator) -> Tensor:
    """Draw states of the caption decoder."""
    return normal("b", "M", "L", "W")(sizes, generator)[:, :, 1:]


def targets(sizes: Sizes, generator: torch.Generator) -> Tensor:
    """Draw token ids."""
    return torch.randint(0, sizes.N, (sizes.b, sizes.M, sizes.L - 1), generator=generator)


def token_shares(sizes: Sizes, generator: torch.Generator) -> Tensor:
    """Draw shares of tokens that are 0 behind a caption's end and add up to 1."""
    shape = (sizes.b, sizes.M, sizes.L - 1)
    valid = torch.rand(shape, generator=generator, dtype=torch.float64).sub(0.3).clamp(min=0).ceil()
    valid[..., 0] = 1  # a caption has at least its end
    return (valid / valid.sum()).to(sizes.dtype)


def shares(sizes: Sizes, generator: torch.Generator) -> Tensor:
    """Draw shares of samples that add up to 1."""
    weights = batch_fields.example(batch_fields.KINDS["weight"], (sizes.b,), sizes.dtype, generator)
    return weights / weights.sum()


def boxes(sizes: Sizes, generator: torch.Generator) -> Tensor:
    """Draw boxes of views, some of them mirrored."""
    draws = torch.rand(sizes.b, sizes.V, 5, generator=generator, dtype=torch.float64)
    size, room = 0.4 + 0.4 * draws[..., :2], draws[..., 2:4]
    first = (1 - size) * room
    box = torch.cat([first, first + size], -1)
    return torch.where(draws[..., 4:] < 0.5, box, box[..., [2, 1, 0, 3]]).to(sizes.dtype)


def present(sizes: Sizes, generator: torch.Generator) -> Tensor:
    """Draw which sources samples have a caption of: most."""
    return torch.rand(sizes.b, sizes.S, generator=generator) < 0.8


def widths(sizes: Sizes, generator: torch.Generator) -> Tensor:
    """Draw widths of blurs."""
    return torch.rand(sizes.b, sizes.Q, generator=generator, dtype=torch.float64).mul(3).add(1).to(sizes.dtype)


def turns(sizes: Sizes, generator: torch.Generator) -> Tensor:
    """Draw quarter turns."""
    return torch.randint(0, 4, (sizes.b, 1), generator=generator)
