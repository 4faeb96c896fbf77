"""The depth of a weight in its tower."""

from __future__ import annotations

from mmclr.models.tower import Tower


def depths(tower: Tower) -> dict[str, int]:
    """Return the depth of each of a tower's weights by name: 0 before its stages, i in the i-th of n, n + 1 behind."""
    stages = tower.stages()
    inside = {id(p): number for number, stage in enumerate(stages, 1) for p in stage.parameters()}
    found = [(name, inside.get(id(p))) for name, p in tower.named_parameters()]
    first = next((at for at, (_, number) in enumerate(found) if number is not None), len(found))
    return {
        name: number if number is not None else 0 if at < first and name not in tower.last else len(stages) + 1
        for at, (name, number) in enumerate(found)
    }
