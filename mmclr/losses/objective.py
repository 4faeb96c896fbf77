"""The contract of an objective, in four words: fields, setup, forward, after_step.

A subclass names its key, states its hyper-parameters as annotated fields, and asks for what it needs by the
ARGUMENT NAMES of forward; each must be a row of `mmclr.vocabulary`. The names are checked when the class is
made, and providers compute nothing that nobody asked for::

    class CWCL(Objective, key="cwcl"):
        text_weight: float = 1.0      # weight of the text-anchored direction, >= 0

        def forward(self, image, text, scale, frozen_image, weights): ...

Features are this rank's rows, blank ones left out (see `blank`), so ranks may have different numbers of them, and
`parallel.count` says how many there are in all. What compares samples goes through `algebra` (streamed) or
`parallel.gather` (dense); what averages over samples goes through `parallel.mean`. The value is the mean over the
GLOBAL batch, the same on every rank; no objective mentions a rank. forward reads state and must not change it: what it
found is kept aside and taken in by after_step, which runs only when the update was made (a NaN cannot poison it).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import dataclass_transform

from mmclr import parallel, plugins, vocabulary
from mmclr.config import ConfigError, check, config, nearest
from mmclr.errors import UserError
from mmclr.losses.algebra.tiles import widen
from mmclr.losses.blank import Kept, samples_alone

ALLOWED = {"setup", "forward", "after_step"}  # what a subclass may define besides fields and private helpers
OPTIONS = ("use", "weight", "inputs", "head", "reweight")  # keys of a term beside its objective's fields


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts of a run by which `setup` may size its state; known before the first step."""

    samples: int = 0  # samples in the training set (rows of per-sample state)
    width: int = 0  # D, the embedding's width
    steps: int = 0  # optimizer steps of the whole run
    batch: int = 0  # B, the global batch
    clusters: int = 0  # clusters that the data's labels tell apart
    # Classes that `label` tells apart, where it is a column of whole numbers from 0 on (`mmclr data label` makes one of
    # any field), or the source of a sample. 0 where it is a member or of the json: nobody reads all before training.
    classes: int = 0
    class_counts: tuple[int, ...] = ()  # samples of each class, as many numbers as classes; none where classes is 0
    tower: int = 0  # H, the width of the image tower, below its projection
    turns: int = 0  # ways of turning an image that `turn` tells apart
    sources: int = 0  # sources of data that are mixed
    text_sources: int = 0  # S, sources of captions (data.text_sources)

    @classmethod
    def example(cls, **known: Any) -> Facts:
        """Return those of a small run with classes and clusters, besides the known ones: for state made by hand."""
        own: dict[str, Any] = {
            "samples": 1000,
            "width": 512,
            "steps": 1000,
            "batch": 256,
            "clusters": 100,
            "classes": 10,
            "tower": 512,
            "turns": 4,
        }
        own |= {"sources": 2, "text_sources": 2, **known}
        return cls(**{"class_counts": (own["samples"] // max(1, own["classes"]),) * own["classes"], **own})


@dataclass_transform(kw_only_default=True)
class Objective(nn.Module):
    """One term of the loss. Subclasses are keyword-only dataclasses, registered by their key."""

    key: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    taught: ClassVar[tuple[str, ...]]  # those of the needs through which its gradient goes, if they have any
    cost: ClassVar[str]  # "streamed": O(B) memory; "dense": builds [b, B]; "local": compares no samples
    full_batch: ClassVar[bool]  # it compares samples by features with a row per token: no micro-batches
    needs_teacher: ClassVar[bool]  # a frozen model with features as wide as the model's own; itself would not do

    def __init_subclass__(
        cls, key: str = "", cost: str = "streamed", full_batch: bool = False, needs_teacher: bool = False
    ) -> None:
        super().__init_subclass__()
        if not key:
            if "forward" in vars(cls) or "__annotations__" in vars(cls):
                raise TypeError(
                    f"class {cls.__name__}: an objective needs a key: class {cls.__name__}(Objective, key=...)"
                )
            return  # torch makes such a class for a module some of whose parameters are parametrized
        dataclasses.dataclass(kw_only=True, eq=False, repr=False)(cls)
        cls.key, cls.cost, cls.full_batch, cls.needs_teacher = key, cost, full_batch, needs_teacher
        if "after_step" in vars(cls):
            cls.after_step = _for_samples(cls.after_step)  # type: ignore[method-assign,assignment]
        cls.needs = cls.taught = vocabulary.asked(cls.forward, f"{cls.__name__}.forward")
        _refuse_strangers(cls)
        _refuse_dense(cls)
        plugins.register("objective", _REGISTRY, key, cls)

    def __new__(cls, **fields: Any) -> Objective:
        # The generated __init__ sets fields, which nn.Module allows only once it is initialised itself.
        self = super().__new__(cls)
        nn.Module.__init__(self)
        self._last = (True, False)
        return self

    def setup(self, facts: Facts) -> None:
        """Create buffers and parameters; called once before training."""

    def after_step(self) -> None:
        """Update state after the optimizer's step (queues, averages, prototypes)."""

    def __call__(self, **features: Any) -> Tensor:
        """Return the term's value, float32 or float64: half-precision features are widened, autocast is off.

        Numbers and lists may stand for tensors. Beside what forward asks for, `real` may say which rows are samples.
        """
        with samples_alone(tensors(features)) as kept:
            self._last = kept.equally, kept.nothing
            if self.needs_teacher:
                _refuse_another_width(self.key, kept.features)
            if kept.nothing:
                return no_value(self, kept)
            device = next(iter(kept.features.values())).device.type
            if not torch.is_autocast_enabled(device):
                return super().__call__(**kept.features)
            with torch.autocast(device, enabled=False):
                return super().__call__(**kept.features)

    def extra_repr(self) -> str:
        """Show the fields in the printed module."""
        return ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self))  # type: ignore[arg-type]


def no_value(module: nn.Module, kept: Kept) -> Tensor:
    """Return 0 with a gradient of 0 for all features and for the module's own weights: no rank has a sample."""
    floats = [x for x in (*kept.features.values(), *module.parameters()) if x.is_floating_point()]
    return sum(((x * 0).sum() for x in floats if x.requires_grad), floats[0].new_zeros(()))


def tensors(features: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return features as tensors, wide ones; what is none gets the type and device of those that are."""
    found = {name: widen(x) for name, x in features.items() if isinstance(x, Tensor)}
    like = next((x for x in found.values() if x.is_floating_point()), torch.zeros(()))
    for name in features.keys() - found.keys():
        dtype = like.dtype if vocabulary.is_float(name) else torch.int64
        found[name] = torch.as_tensor(features[name], dtype=dtype, device=like.device)
    if "weights" in found and not found["weights"].is_floating_point():
        found["weights"] = found["weights"].to(like.dtype)
    return {name: found[name] for name in features}


def _refuse_another_width(key: str, features: Mapping[str, Tensor]) -> None:
    """Raise UserError where the frozen model's features cannot be compared with the model's own."""
    for name in ("image", "text"):
        own, frozen = (len(features[of].mT) for of in (name, f"frozen_{name}"))
        if own != frozen:
            raise UserError(
                f"objectives: {key} compares the model's {name} features with the teacher's, and they have {own} and "
                f"{frozen} numbers; take a teacher of the same model.embed, and no head of another width"
            )


def _for_samples(update: Callable[[Objective], None]) -> Callable[[Objective], None]:
    """Return an after_step that knows of the last forward's rows, and does nothing where none was a sample."""

    @functools.wraps(update)
    def run(self: Objective) -> None:
        equally, nothing = self._last
        if not nothing:
            with parallel.equally_many(equally):
                update(self)

    return run


_REGISTRY: dict[str, type[Objective]] = {}


def catalogue() -> Mapping[str, type[Objective]]:
    """Return every objective by key: ours, found by walking the rooms, and those of plugins."""
    return plugins.catalogue(__name__.rpartition(".")[0], _REGISTRY)


def build(key: str, fields: Mapping[str, Any], where: str = "objectives") -> Objective:
    """Make the objective `key` from its fields; faults are ConfigErrors with the path `where`."""
    known = catalogue()
    if key not in known:
        raise ConfigError(f"{where}: there is no objective {key!r}{nearest(key, known)}")
    values = check(fields_of(known[key]), fields, where)
    try:
        return known[key](**vars(values))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def fields_of(cls: type[nn.Module]) -> type[Any]:
    """Return the plain config whose fields are a module's: the module is not made until they are right."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    plain = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
    return config(type(cls.__name__, (), {"__annotations__": {f.name: hints[f.name] for f in fields}, **plain}))


def _refuse_strangers(cls: type[Objective]) -> None:
    """Refuse public methods beyond the contract: they would be a second way in."""
    for name, value in vars(cls).items():
        if inspect.isfunction(value) and not name.startswith("_") and name not in ALLOWED:
            raise TypeError(
                f"{cls.__name__}.{name}: an objective has only {', '.join(sorted(ALLOWED))}; prefix helpers with _"
            )
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in OPTIONS:
            raise TypeError(f"{cls.__name__}.{field.name}: every term has an option of this name; take another")


def _refuse_dense(cls: type[Objective]) -> None:
    """Refuse to compare samples by features that exist for one micro-batch at a time: the value would be wrong."""
    dense = vocabulary.dense(cls.needs)
    if cls.full_batch and not dense:
        raise TypeError(f"{cls.__name__} asks for no feature with a row per token: leave full_batch out")
    if dense and cls.cost != "local" and not cls.full_batch:
        raise TypeError(
            f"{cls.__name__} asks for {dense[0]}, which has a row per token and exists for one micro-batch at a time: "
            f'say cost="local" if it compares no samples and weighs them by shares, full_batch=True if it compares '
            f"them, or let a provider make a feature per sample of it"
        )
    if dense and cls.cost == "local" and not cls.full_batch and "weights" in cls.needs:
        raise TypeError(
            f"{cls.__name__} asks for {dense[0]}, so it is computed micro-batch by micro-batch, where weights do not "
            f"say what a sample counts in the global batch: ask for shares"
        )
