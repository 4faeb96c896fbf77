"""The terms of a config's loss: {name: {use: key, weight: number or ramp, head: a head, the objective's fields...}}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mmclr import heads
from mmclr.config import ConfigError, check, config
from mmclr.losses.objective import Objective, build
from mmclr.losses.ramp import Ramp, Weight
from mmclr.losses.with_head import Headed


class Term(NamedTuple):
    """An objective and its weight over the training."""

    objective: Objective | Headed
    weight: Ramp


@config
class _Entry:
    use: str
    weight: Weight
    head: dict[str, Any] | None


def needs(terms: Mapping[str, Term]) -> frozenset[str]:
    """Return the features that the objectives ask for."""
    return frozenset(need for term in terms.values() for need in term.objective.needs)


def build_terms(tree: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Term]:
    """Make the objectives of a config, all faults in one ConfigError.

    `use` is the term's name by default, `weight` 1, `head` none. A term that is null is left out: so a config takes
    away what its base has.
    """
    terms, faults = {}, []
    if not any(fields is not None for fields in tree.values()):
        raise ConfigError("objectives: name at least one, for example objectives: {clip: {}}")
    for name, fields in tree.items():
        if fields is None:
            continue
        where = f"objectives.{name}"
        try:
            own = {"use": name, "weight": 1.0, "head": None, **fields}
            entry = check(_Entry, {key: own.pop(key) for key in ("use", "weight", "head")}, where)
            bare = build(entry.use, own, where)
            at = f"{where}.head"
            headed = bare if entry.head is None else Headed(bare, heads.build(entry.head, at), at)
            terms[name] = Term(headed, entry.weight)
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        raise ConfigError("\n".join(faults))
    return terms
