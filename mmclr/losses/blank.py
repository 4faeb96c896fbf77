"""Blank rows fill up a batch and are no samples: nothing that an objective sees is one.

The loader makes them (`data.tail: pad`, `faults: skip`): weight 0, every id -1. They are taken out here, at the one
gate before objectives, heads and diagnostics, so none of these counts, compares, averages or remembers them. What is
left may differ in number from rank to rank, which the collectives in `parallel` allow for. A sample of weight 0 is
something else: it counts in no mean, but it is still what others are told apart from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

from mmclr import parallel, vocabulary

_open: list[Kept] = []  # the gates that are open, the last one counts


class Kept(NamedTuple):
    """The rows that a gate let through."""

    features: dict[str, Tensor]  # of samples alone
    equally: bool  # whether ranks have equally many of them
    nothing: bool  # whether no rank has any


@contextmanager
def samples_alone(features: Mapping[str, Tensor]) -> Iterator[Kept]:
    """Let features through without their blank rows. All ranks must ask; inside another gate nothing is left to do.

    Blank is what the feature `real` says, or without it the weights and ids (`vocabulary.real`).
    """
    if _open:
        kept = _open[-1]._replace(features={name: x for name, x in features.items() if name != "real"})
        yield kept
        return
    kept = _kept(dict(features))
    _open.append(kept)
    try:
        with parallel.equally_many(kept.equally):
            yield kept
    finally:
        _open.pop()


@contextmanager
def those_alone(which: Tensor, *features: Tensor) -> Iterator[list[Tensor]]:
    """Let only those rows of features [b, ...] through of which `which` is true, bool [b]. All ranks must ask.

    For objectives that need something of a sample which not all have: inside, ranks may have different numbers of rows.
    """
    at = which.nonzero()[:, 0]
    with parallel.equally_many(False):
        counts = parallel.rows_of(len(at))
    with parallel.equally_many(counts.even):
        yield [x.index_select(0, at.to(x.device)) for x in features]


def _kept(features: dict[str, Tensor]) -> Kept:
    real = vocabulary.real(features)
    features.pop("real", None)
    if not parallel.agree(real is not None and not bool(real.all())):
        return Kept(features, equally=True, nothing=False)
    rows = {name: x for name, x in features.items() if vocabulary.FEATURES[name].per_sample}
    if real is not None:
        at = real.nonzero()[:, 0]
        rows = {name: x.index_select(0, at.to(x.device)) for name, x in rows.items()}
    counts = parallel.rows_of(len(next(iter(rows.values()))))
    return Kept({**features, **rows}, equally=counts.even, nothing=counts.total == 0)
