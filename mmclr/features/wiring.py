"""The wiring of providers: the one that gives each feature, and the order of their turns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set

from mmclr import vocabulary
from mmclr.config import ConfigError
from mmclr.features.provider import Provider


class Wiring:
    """The providers of a step by name; of two that provide a feature the first gives it. `known` needs no provider."""

    def __init__(self, providers: Mapping[str, Provider], known: Set[str]) -> None:
        """Raise ConfigError where a provider asks for what nothing gives, or, through others, for its own."""
        self.known, self.asks = known, {name: provider.asks for name, provider in providers.items()}
        self.provides = {name: provider.provides for name, provider in providers.items()}
        self.giver: dict[str, str] = {}
        for name, provided in self.provides.items():
            for feature in provided - known:
                self.giver.setdefault(feature, name)
        for name, asks in self.asks.items():
            self.check(sorted(asks), f"providers.{name} asks for")
        self.order: list[str] = []
        for name in providers:
            self._put_in_order(name, ())

    def check(self, needs: Iterable[str], who: str) -> None:
        """Raise ConfigError where something is needed that nothing gives; the sentence begins with `who`."""
        for need in needs:
            if need not in self.giver and need not in self.known:
                what = vocabulary.FEATURES[need].meaning
                raise ConfigError(f"{who} {need} ({what}), which nothing in this run provides")

    def refuse_idle(self, wanted: Set[str], names: Iterable[str]) -> None:
        """Raise ConfigError where one of the providers of these names gives nothing that is wanted."""
        used = {self.giver.get(name) for name in self.closed(wanted)}
        for name in set(names) - used:
            said = ", ".join(sorted(self.provides[name]))
            raise ConfigError(
                f"providers.{name}: no objective asks for what it provides ({said}); add one, or leave it out"
                f" (providers.{name}: null)"
            )

    def closed(self, wanted: Iterable[str], taught: bool = False) -> frozenset[str]:
        """Return the wanted features, what their givers ask for, and so on.

        `taught`: through features that have a gradient alone, so that a loss of the wanted ones reaches all of them.
        """
        todo, closed = list(wanted), set[str]()
        while todo:
            name = todo.pop()
            if name not in closed:
                closed.add(name)
                if name in self.giver and (not taught or vocabulary.FEATURES[name].gradient):
                    todo += self.asks[self.giver[name]]
        return frozenset(closed)

    def turns(self, closed: Set[str]) -> Iterator[tuple[str, Set[str]]]:
        """Yield each provider that has something to give of `closed`, in order, with the names of that."""
        for name in self.order:
            names = {feature for feature in closed if self.giver.get(feature) == name}
            if names:
                yield name, names

    def _put_in_order(self, name: str, path: tuple[str, ...]) -> None:
        if name in path:
            around = " -> ".join([*path[path.index(name) :], name])
            raise ConfigError(f"providers: each asks for what the next provides, in a circle: {around}")
        if name not in self.order:
            for ask in sorted(self.asks[name] - self.known):
                self._put_in_order(self.giver[ask], (*path, name))
            self.order.append(name)
