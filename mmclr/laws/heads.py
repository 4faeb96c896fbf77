"""Laws of a head in front of an objective: the model and the teacher pass heads of one kind, or none is taken."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmclr.config import ConfigError
from mmclr.heads.ema_copy import Follower, pairs
from mmclr.laws.case import Case, gradients
from mmclr.laws.law import demand, law
from mmclr.laws.tolerance import same
from mmclr.losses.with_options import SIDES, TEACHER

MLP: dict[str, Any] = {"use": "mlp", "hidden": 6, "out": 5}
KINDS: list[dict[str, Any]] = [{"use": "reweight", "kappa": 1.5}, MLP, {**MLP, "hidden": 0, "out": 8, "shared": True}]


def _bare(case: Case) -> Case:
    return Case(case.key, plugins=case.plugins)


def compares(case: Case) -> bool:
    """Say whether the objective asks for embeddings of the model, so that a head can stand before it."""
    return bool(SIDES.keys() & set(case.cls.needs))


def asks_the_teacher(case: Case) -> bool:
    """Say whether it asks for the teacher's, too."""
    return compares(case) and bool(TEACHER.keys() & set(case.cls.needs))


@law(applies=compares, once=True)
def idle_head(case: Case) -> None:
    """A head that changes nothing changes nothing: neither the value nor gradients across the unit vectors."""
    bare = _bare(case)
    inputs, found = bare.features(9), []
    settings: tuple[dict[str, Any], ...] = (
        {},
        {"head": {"use": "reweight", "kappa": 1.0}},
    )  # the identity on unit vectors
    for more in settings:
        objective = bare.make(**more)
        torch.manual_seed(0)
        value = objective(**inputs)
        found.append((value, gradients(value, inputs)))
    (plain, own), (headed, behind) = found
    demand(same(headed, plain), f"the value is {plain:.12g}, and {headed:.12g} behind a head that changes nothing")
    for name in inputs.keys() & SIDES.keys():
        x, across = inputs[name].detach(), own[name]
        across = across - (across * x).sum(-1, keepdim=True) * x  # the head goes by the direction alone
        demand(
            torch.allclose(behind[name], across, rtol=1e-8, atol=1e-10),
            f"the gradient for {name} is another behind a head that changes nothing",
        )


@law(applies=asks_the_teacher, once=True)
def teachers_head(case: Case) -> None:
    """The teacher's features pass a head of the same kind, without gradient, which follows the student's head."""
    bare = _bare(case)
    for use in KINDS:
        objective = bare.make(head=use)
        inputs = bare.features(7)
        seen: dict[str, Any] = {}
        for name in TEACHER.keys() & inputs.keys():  # the teacher says what the model says
            inputs[name] = inputs[name.removeprefix("ema_")].detach() if name[4:] in inputs else inputs[name]

        def see(module: torch.nn.Module, _: Any, given: dict[str, Tensor], into: dict[str, Tensor] = seen) -> None:
            into.update(given)

        objective.objective.register_forward_pre_hook(see, with_kwargs=True)
        objective(**inputs)
        for name in TEACHER.keys() & inputs.keys():
            expected = objective.head(inputs[name], TEACHER[name])
            demand(torch.equal(seen[name], expected), f"{name} does not pass a head like the student's")
            demand(not seen[name].requires_grad, f"a gradient flows into {name}")
    objective = bare.make(head=MLP)
    demand(isinstance(objective.teacher, Follower), "the teacher's head follows nothing")
    followed = {own: of for own, of in pairs(objective).items() if own.startswith("teacher.")}
    expected = {f"teacher.copy.{name}": f"head.{name}" for name, _ in objective.head.named_parameters()}
    demand(followed == expected, "the teacher's head does not follow the student's")
    demand(not any(p.requires_grad for p in objective.teacher.parameters()), "the teacher's head is trained")


@law(once=True)
def heads_refused(case: Case) -> None:
    """A head that the objective has no use for is refused: before no embeddings, and whitening of a teacher's."""
    bare, where = _bare(case), "objectives.term.head: "
    refused = {} if compares(case) else {"mlp": "a head maps embeddings"}
    refused |= {"whiten": "whiten works with"} if asks_the_teacher(case) else {}
    for use, why in refused.items():
        try:
            bare.make(head={"use": use})
        except ConfigError as error:
            demand(str(error).startswith(where + why), f"the head {use} is refused for another reason: {error}")
        else:
            demand(False, f"the head {use} is taken, and has no use")
