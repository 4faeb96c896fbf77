"""Laws of what an objective keeps, and of its fields."""

from __future__ import annotations

import copy
import dataclasses

import torch

from mmclr.config import to_tree
from mmclr.laws.case import Case
from mmclr.laws.law import demand, law
from mmclr.losses import build
from mmclr.losses.objective import OPTIONS


@law()
def saved_state(case: Case) -> None:
    """A state that was saved goes on identically."""
    first = case.make()
    inputs = [case.features(8, seed=seed) for seed in range(3)]
    first(**inputs[0]).backward()
    first.after_step()
    second = case.make()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for number, step in enumerate(inputs[1:]):
        values = []
        for objective in (first, second):
            torch.manual_seed(number)  # as every step of a run does
            values.append(objective(**step))
            objective.after_step()
        demand(
            torch.equal(*values),
            f"the value is {values[0]:.12g}, and {values[1]:.12g} with a state that was saved and read: something is "
            "kept outside of buffers and parameters",
        )


@law()
def fields_in_a_config(case: Case) -> None:
    """Fields survive being written to a config and read."""
    objective = build(case.key, {name: value for name, value in case.fields.items() if name not in OPTIONS})
    names = [field.name for field in dataclasses.fields(objective)]  # type: ignore[arg-type]
    values = {name: getattr(objective, name) for name in names}
    plain = {n: to_tree(v) if dataclasses.is_dataclass(v) else v for n, v in values.items()}
    again = build(case.key, plain)
    changed = [name for name in names if getattr(again, name) != values[name]]
    demand(not changed, f"{', '.join(changed)}: another value after it was written to a config and read")
