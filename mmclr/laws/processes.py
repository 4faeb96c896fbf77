"""Laws of several processes: with a share of the batch each, they equal one process with all of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel
from mmclr.laws.batches import with_blanks
from mmclr.laws.case import Case, per_sample, wants_gradient
from mmclr.laws.law import demand, law
from mmclr.laws.ranks import run
from mmclr.laws.tolerance import bound, close

BATCH = 8
Step = dict[str, Tensor]


def train(case: Case, steps: Sequence[Step], dtype: torch.dtype) -> dict[str, Tensor]:
    """Two steps through linear towers on this rank's rows; what a trainer would see, by name."""
    objective = case.make(dtype)
    seen = {}
    for number, inputs in enumerate(steps):
        given, leaves = _own_rows(inputs, dtype)
        leaves |= {f"own {name}": p for name, p in objective.named_parameters() if p.requires_grad}
        value = objective(**given)
        grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        objective.after_step()
        seen[f"{number} value"] = value.detach()
        for (name, leaf), grad in zip(leaves.items(), grads):
            grad = torch.zeros_like(leaf) if grad is None else grad
            # Rows belong to a rank; what is replicated is averaged over ranks, as DDP does.
            whole = parallel.gather(grad) if name.startswith("rows") else parallel.total(grad)
            seen[f"{number} {name}"] = whole / parallel.world()
        own = objective.state_dict()  # what is shared out, whole on the first rank only
        kept = sorted(own.keys() - dict(objective.named_parameters()).keys())
        seen |= {f"{number} {name}": own[name].clone() for name in kept if parallel.rank() == 0}
    return seen


def _own_rows(inputs: Step, dtype: torch.dtype) -> tuple[Step, Step]:
    """Return this rank's rows of the features behind towers, and the leaves that want gradients."""
    given, leaves = {}, {}
    for name, x in inputs.items():
        x = x.detach().to(dtype) if x.is_floating_point() else x
        given[name] = parallel.own_rows(x) if per_sample(name) else x
        if not wants_gradient(name):
            continue
        given[name] = leaves[f"rows of {name}" if per_sample(name) else name] = given[name].clone().requires_grad_()
        if per_sample(name):
            tower = torch.randn(x.shape[-1], x.shape[-1], generator=torch.Generator().manual_seed(3), dtype=dtype)
            leaves[f"tower of {name}"] = tower.requires_grad_()
            given[name] = F.normalize(given[name] @ tower, dim=-1)
    return given, leaves


def _two_steps(case: Case) -> list[Step]:
    return [{n: x.detach() for n, x in case.features(BATCH, seed=seed).items()} for seed in (5, 6)]


def _said(name: str) -> str:
    number, _, what = name.partition(" ")
    kind = (
        "" if what == "value" else "state " if not what.startswith(("rows of", "tower of", "own")) else "gradient of "
    )
    return f"{kind}{what} of step {int(number) + 1}"


@law(worlds=(2, 4))
def several_processes(case: Case, world: int) -> None:
    """Several processes with a share of the batch equal one with all of it: value, gradients and state."""
    steps = _two_steps(case)
    for dtype in (torch.float64, torch.float32):
        tolerance = bound(dtype, terms=64, size=32)  # exponents, and the conditions of whitening and solving
        alone = train(case, steps, dtype)
        several = run(world, train, case, steps, dtype)
        demand(several[0].keys() == alone.keys(), f"{world} processes have another state than one")
        for seen in several:
            for name, value in seen.items():
                told = f"the {_said(name)} is another in {world} processes ({dtype})"
                demand(close(value, alone[name], tolerance), told)


@law(worlds=(2,))
def blank_rows_of_processes(case: Case, world: int) -> None:
    """Blank rows on any process change nothing, also where one has nothing else."""
    blank_on_ranks(case, world, [(1, 5, 6, 8), range(8, 16)])


def blank_on_ranks(case: Case, world: int, at: Sequence[Collection[int]]) -> None:
    """Compare one process without blank rows with several that have them at the places `at` of each step."""
    steps = _two_steps(case)
    more = [with_blanks(inputs, where, "noise") for inputs, where in zip(steps, at)]
    alone = train(case, steps, torch.float64)
    for seen in run(world, train, case, [inputs for inputs, _ in more], torch.float64):
        for name, value in seen.items():
            number, _, what = name.partition(" ")
            value = value[more[int(number)][1]] if what.startswith("rows of") else value
            demand(
                close(value, alone[name], 1e-12), f"the {_said(name)} is another with blank rows on {world} processes"
            )
