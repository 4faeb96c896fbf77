"""The terms of a config's loss, {name: {use: key, the objective's fields...}}, with the options that each may have.

weight: a number or a ramp; inputs: other features in place of those that the objective names; head: a head before it;
reweight: one reweighter or several.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mmclr import heads, reweighters, vocabulary
from mmclr.config import ConfigError, check, config
from mmclr.losses.objective import OPTIONS, Objective, build
from mmclr.losses.ramp import Ramp, Weight
from mmclr.losses.with_options import WithOptions


class Term(NamedTuple):
    """An objective and its weight over the training."""

    objective: Objective | WithOptions
    weight: Ramp


@config
class _Entry:
    use: str
    weight: Weight
    inputs: dict[str, str] | None
    head: dict[str, Any] | None
    reweight: dict[str, Any] | list[dict[str, Any]] | None


def needs(terms: Mapping[str, Term]) -> frozenset[str]:
    """Return the features that the objectives ask for."""
    return frozenset(need for term in terms.values() for need in term.objective.needs)


def build_terms(
    tree: Mapping[str, Mapping[str, Any] | None], micro_batch: int = 0, teacher: bool = True
) -> dict[str, Term]:
    """Make the objectives of a config, all faults in one ConfigError.

    `use` is the term's name by default, `weight` 1, other options none. A term that is null is left out: so a config
    takes away what its base has. With a `micro_batch` none may need the whole batch at once, without a `teacher` none
    may need a frozen model.
    """
    terms, faults = {}, []
    if not any(fields is not None for fields in tree.values()):
        raise ConfigError("objectives: name at least one, for example objectives: {clip: {}}")
    for name, fields in tree.items():
        if fields is None:
            continue
        try:
            terms[name] = _build(name, fields, micro_batch, teacher)
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        raise ConfigError("\n".join(faults))
    return terms


def _build(name: str, fields: Mapping[str, Any], micro_batch: int, teacher: bool) -> Term:
    where = f"objectives.{name}"
    own: dict[str, Any] = {**dict.fromkeys(OPTIONS), "use": name, "weight": 1.0, **fields}
    entry = check(_Entry, {option: own.pop(option) for option in OPTIONS}, where)
    bare = build(entry.use, own, where)
    if micro_batch and bare.full_batch:
        raise ConfigError(
            f"{where}: {bare.key} compares samples by {vocabulary.dense(bare.needs)[0]}, which exists for one "
            f"micro-batch at a time; set micro_batch=0 (and a smaller data.batch, if memory asks for it), or leave "
            f"{bare.key} out"
        )
    if bare.needs_teacher and not teacher:
        raise ConfigError(
            f"{where}: {bare.key} compares the model with an earlier one, and this run has none; set teacher=RUN (a "
            f"run, a model folder or a name, for example what init.source says)"
        )
    if entry.inputs is None and entry.head is None and entry.reweight is None:
        return Term(bare, entry.weight)
    head = None if entry.head is None else heads.build(entry.head, f"{where}.head")
    rules = () if entry.reweight is None else reweighters.build(entry.reweight, f"{where}.reweight")
    return Term(WithOptions(bare, head, entry.inputs, rules, where), entry.weight)
