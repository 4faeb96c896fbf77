"""Find the chain of blocks in a tower that does not say which it is, by its structure.

A series are children of one module whose names differ by a number alone (`layers.0`, `layers.1`; `layer1`, `layer2`),
which hold weights and are composed of other modules. Of timm's families all but a few of convolutions have one.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def chain(module: nn.Module) -> list[nn.Module]:
    """Return the heaviest of the outermost series within a module: its stages; [] where there is none."""
    found = max(_series(module), key=_weight, default=[])
    while len(found) == 1 and _weight(inner := chain(found[0])) > 0.5 * _weight(found):
        found = inner  # a series of one module says nothing
    return found


def links(stages: list[nn.Module]) -> list[nn.Module]:
    """Return the blocks of stages: the series of one kind that holds most of a stage, else the stage itself."""
    out = []
    for stage in stages:
        inner = chain(stage)
        whole = len({type(member) for member in inner}) == 1 and _weight(inner) > 0.5 * _weight([stage])
        out += inner if whole else [stage]
    return out


def _series(module: nn.Module) -> Iterator[list[nn.Module]]:
    """Yield the outermost series within a module."""
    found: dict[str, list[nn.Module]] = {}
    for name, child in module.named_children():
        if name[-1].isdigit() and _weight(list(child.children())):
            found.setdefault(name.rstrip("0123456789"), []).append(child)
    yield from found.values()
    members = {id(member) for series in found.values() for member in series}
    for child in module.children():
        if id(child) not in members:
            yield from _series(child)


def _weight(modules: list[nn.Module]) -> int:
    """Return how many numbers the parameters of modules have."""
    return sum(p.numel() for module in modules for p in module.parameters())
