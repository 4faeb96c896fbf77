"""The contract of a provider: a module that computes named features of a batch for the objectives that ask for them.

A subclass names its key, states its settings as annotated fields, and says of which rows of `mmclr.vocabulary` it is
the `provides` and which others it `asks` for; what it asks for is computed first, and handed over as `found`::

    class Regions(Provider, key="regions"):
        provides = frozenset({"regions"})
        asks = frozenset({"view_tokens"})
        slots: int = 4

        def setup(self, model, facts):
            self.query = nn.Parameter(torch.randn(self.slots, facts.width))

        def forward(self, batch, wanted, found, progress): ...

A file in this folder with such a class, and rows of the vocabulary, are all that is needed: `providers: {regions: {}}`
in a config makes one. What is computed for a sample must not depend on which others are in the batch, nor on the
order of draws: a batch that is larger than memory is computed in parts, and twice (`draws` has numbers by sample).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Set
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import dataclass_transform

from mmclr import plugins, vocabulary
from mmclr.config import ConfigError, check, nearest
from mmclr.losses.objective import Facts, fields_of
from mmclr.models.two_tower import TwoTower


@dataclass_transform(kw_only_default=True)
class Provider(nn.Module):
    """One maker of features. Subclasses are keyword-only dataclasses, registered by their key."""

    key: ClassVar[str]
    made_by: ClassVar[str]  # the key of a config that makes it; empty: it is an entry of `providers`
    provides: Set[str] = frozenset()  # rows of the vocabulary
    asks: Set[str] = frozenset()  # rows of the vocabulary that it needs for them

    def __init_subclass__(cls, key: str = "", made_by: str = "") -> None:
        super().__init_subclass__()
        if not key:
            if "forward" in vars(cls):
                raise TypeError(
                    f"class {cls.__name__}: a provider needs a key: class {cls.__name__}(Provider, key=...)"
                )
            return  # torch makes such a class for a module some of whose parameters are parametrized
        cls.key, cls.made_by = key, made_by
        if not made_by:
            dataclasses.dataclass(kw_only=True, eq=False, repr=False)(cls)
        for name in sorted({*cls.provides, *cls.asks}):
            if name not in vocabulary.FEATURES:
                hint = nearest(name, vocabulary.FEATURES)
                raise TypeError(f"{cls.__name__}: {name!r} is not in mmclr.vocabulary{hint}")
        plugins.register("provider", _REGISTRY, key, cls)

    def __new__(cls, *_: Any, **fields: Any) -> Provider:
        # The generated __init__ sets fields, which nn.Module allows only once it is initialised itself.
        self = super().__new__(cls)
        nn.Module.__init__(self)
        return self

    def setup(self, model: TwoTower, facts: Facts) -> None:
        """Create buffers and parameters; called once before training. `model` is the one in training."""

    def forward(
        self, batch: Any, wanted: Set[str], found: Mapping[str, Tensor], progress: float
    ) -> Mapping[str, Tensor]:
        """Return {name: feature} for the wanted names, which are among those that it provides.

        `found` has what it asks for; `progress` is the share of the training that is done.
        """
        raise NotImplementedError

    def freeze_unasked(self, taught: Set[str]) -> None:
        """Freeze what gets no gradient, so that no process waits for it. A loss reaches the features `taught`."""
        if not self.provides & taught:
            self.requires_grad_(False)

    def after_step(self) -> None:
        """Update state after the optimizer's step."""


_REGISTRY: dict[str, type[Provider]] = {}


def catalogue() -> Mapping[str, type[Provider]]:
    """Return every provider by key: ours, found by walking this folder, and those of plugins."""
    return plugins.catalogue(__name__.rpartition(".")[0], _REGISTRY)


def build_providers(tree: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Provider]:
    """Make the providers of a config, {name: {use: key, its fields...}}, all faults in one ConfigError.

    `use` is the name by default; what is null is left out.
    """
    made, faults = {}, []
    for name, fields in tree.items():
        if fields is None:
            continue
        try:
            made[name] = _build(name, fields)
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        raise ConfigError("\n".join(faults))
    return made


def _build(name: str, fields: Mapping[str, Any]) -> Provider:
    where, own, known = f"providers.{name}", dict(fields), catalogue()
    key = own.pop("use", name)
    if name in {k for k, cls in known.items() if cls.made_by} or not name.isidentifier() or name in dir(nn.ModuleDict):
        raise ConfigError(f"{where}: a provider cannot be called so; take another name, with `use: KEY`")
    choice = [k for k, cls in known.items() if not cls.made_by]
    if key not in known:
        raise ConfigError(f"{where}: there is no provider {key!r}{nearest(str(key), choice)}")
    cls = known[key]
    if cls.made_by:
        raise ConfigError(f"{where}: the provider {key} is made by the key `{cls.made_by}` of a config")
    try:
        return cls(**vars(check(fields_of(cls), own, where)))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
