"""The contract of an order: which sample comes when, as a pure function of (seed, position).

So nothing has to be stored or replayed: a run goes on anywhere, and ranks and workers take positions of one endless
global stream. An order names its key, states its settings as annotated fields, and lies in a file of its own in
`mmclr/data/stream/orders`, where `data.order: KEY` (or `{use: KEY, settings}`) finds it::

    class Shuffled(Order, key="shuffled"):
        def setup(self, stream): ...
        def at(self, positions): ...
        def others(self, sample, words): ...
        def identity(self): ...
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pydantic
from typing_extensions import dataclass_transform

from mmclr import plugins
from mmclr.config import ConfigError, check, nearest
from mmclr.data.random import Words
from mmclr.data.shards.index import Ints
from mmclr.data.stream import orders

_REGISTRY: dict[str, type[Order]] = {}


@dataclasses.dataclass(frozen=True)
class Stream:
    """Facts of the data that an order may know before the first sample. It keeps none of them but those it needs."""

    sizes: Sequence[int]  # usable samples of each source; sample numbers run through all of them
    weights: Sequence[float]  # of the sources in a mixture
    seed: int
    batch: int  # samples of a global batch
    labels: Callable[[str], Ints]  # name of a column -> its whole number of each sample, -1 for none, [samples]
    block: int = 1  # neighbours that stay together
    window: int = 16  # blocks that are mixed, when block > 1


@dataclass_transform(kw_only_default=True)
class Order:
    """Position of the global stream -> (sample, epoch). Nothing that it does changes it, once it is set up."""

    key: ClassVar[str]
    paper: ClassVar[str] = ""  # its name in the catalogue, where it is a paper's
    alone: ClassVar[bool] = False  # of one source: no mixture, no padded tail, no blocks unless it says so
    blocks: ClassVar[bool] = False  # an order of one source that keeps neighbours together (data.block)
    whole: ClassVar[bool] = True  # an epoch has every sample; otherwise some are left out of it
    example: ClassVar[Mapping[str, Any]] = {}  # settings to show, for fields that have no default

    length: int  # positions of an epoch
    left_out: Mapping[str, int] = {}  # samples that are never drawn, by the ledger's reason

    def __init_subclass__(cls, key: str) -> None:
        super().__init_subclass__()
        cls.__pydantic_config__ = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[attr-defined]
        dataclasses.dataclass(kw_only=True, eq=False)(cls)
        cls.key = key
        plugins.register("order", _REGISTRY, key, cls)

    def setup(self, stream: Stream) -> None:
        """Learn what the data are; called once, before anything else. Raises UserError where they do not fit."""
        raise NotImplementedError

    def at(self, positions: Ints) -> tuple[Ints, Ints]:
        """Return for each position the number of its sample, and which epoch of its source this is. [b] each."""
        raise NotImplementedError

    def others(self, sample: Ints, words: Words) -> Ints:
        """Return samples that may stand for `sample`, chosen by random words. [b] each."""
        raise NotImplementedError

    def shares(self, position: int) -> list[float]:
        """Return which part of the first `position` samples came from each source; of one source it is all."""
        return [1.0]

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a position to mean the same sample, beside the samples and the seed.

        It is kept in checkpoints: texts, numbers and lists of them. Of columns, a digest.
        """
        raise NotImplementedError


def catalogue() -> dict[str, type[Order]]:
    """Return all orders by key: ours, found by walking their room, and those of plugins."""
    return plugins.catalogue(orders.__name__, _REGISTRY)


def build(tree: str | Mapping[str, Any], where: str = "order") -> Order:
    """Return the order that NAME or {use: NAME, its settings...} means, not yet set up. Faults are ConfigErrors."""
    fields: dict[str, Any] = {"use": tree} if isinstance(tree, str) else dict(tree)
    name = str(fields.pop("use", ""))
    if name not in catalogue():
        raise ConfigError(f"{where}: there is no order {name!r}{nearest(name, catalogue())}")
    return check(catalogue()[name], fields, where)
