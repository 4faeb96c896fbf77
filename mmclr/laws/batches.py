"""Laws of what a batch is: order, weights, ids, blank rows, and parts of one."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from mmclr import vocabulary
from mmclr.laws.case import Case, gradients, per_sample, with_own
from mmclr.laws.law import demand, law
from mmclr.laws.tolerance import same

WEIGHTS = ("weights", "shares", "caption_shares")
IDS = ("image_id", "caption_id", "label", "group", "domain")


@law()
def order(case: Case) -> None:
    """The order of the batch does not matter."""
    inputs = case.features(11)
    places = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    shuffled = {n: x[places] if per_sample(n) else x for n, x in inputs.items()}
    values = [_value(case, given) for given in (inputs, shuffled)]
    demand(same(*values), f"the value is {values[0]:.12g}, and {values[1]:.12g} of the same samples in another order")


@law(applies=lambda case: "weights" in case.cls.needs)
def weights(case: Case) -> None:
    """Weights are relative (all alike are none), and may all be 0."""
    inputs = case.features(9)
    ones, halves, zeros = (inputs | {"weights": torch.full((9,), w, dtype=torch.float64)} for w in (1.0, 0.5, 0.0))
    values = [_value(case, given) for given in (ones, halves)]
    demand(same(*values), f"the value is {values[0]:.12g} with weights of 1 and {values[1]:.12g} with weights of 0.5")
    value = case.make()(**zeros)
    demand(value.isfinite(), f"the value is {value.item()} where all weights are 0")
    for name, gradient in gradients(value, zeros).items():
        demand(gradient.isfinite().all(), f"the gradient for {name} is not finite where all weights are 0")


@law(applies=lambda case: bool(set(IDS) & set(case.cls.needs)))
def missing_ids(case: Case) -> None:
    """Samples without an id (-1) are different from each other: as if each had an id of its own."""
    inputs = case.features(9)
    for name in set(IDS) & set(case.cls.needs):
        without, own = inputs[name].clone(), inputs[name].clone()
        without[[1, 2, 5]] = -1
        for row in (1, 2, 5):
            own[row] = 1000 + row
        values = [_value(case, inputs | {name: ids}) for ids in (without, own)]
        demand(
            same(*values),
            f"the value is {values[0]:.12g} where three samples have no {name} (-1), and {values[1]:.12g} where each "
            "has its own",
        )
        slopes = [_gradients(case, inputs | {name: ids}) for ids in (without, own)]
        for of, gradient in slopes[0].items():
            demand(
                same(gradient, slopes[1][of]), f"the gradient for {of} is another where three samples have no {name}"
            )


@law(applies=lambda case: any(vocabulary.FEATURES[need].dense for need in case.cls.needs) and not case.cls.full_batch)
def micro_batches(case: Case) -> None:
    """An objective of dense features adds up: values and gradients of parts of a batch sum to those of the whole."""
    objective, inputs = case.make(), case.features(9)
    whole = objective(**inputs)
    parts = sum(
        objective(**{n: x[part] if per_sample(n) else x for n, x in inputs.items()})
        for part in (slice(0, 2), slice(2, 7), slice(7, 9))
    )
    demand(same(parts, whole), f"the value of the batch is {whole:.12g}, and of its parts together {parts:.12g}")
    expected = gradients(whole, inputs)
    for name, gradient in gradients(parts, inputs).items():
        demand(same(gradient, expected[name]), f"the gradients of parts of a batch do not add up, for {name}")


def with_blanks(inputs: dict[str, Tensor], at: Collection[int], fill: str) -> tuple[dict[str, Tensor], Tensor]:
    """Return the features with blank rows at the places `at`, full of "noise" or "nan", and which rows are real."""
    rows = {name: x for name, x in inputs.items() if per_sample(name)}
    real = torch.ones(len(next(iter(rows.values()))) + len(at), dtype=torch.bool)
    real[list(at)] = False
    generator, more = torch.Generator().manual_seed(9), dict(inputs)
    for name, x in rows.items():
        more[name] = whole = x.new_full((len(real), *x.shape[1:]), -1 if not x.is_floating_point() else 0)
        if x.is_floating_point() and name not in WEIGHTS and fill == "noise":
            whole.copy_(torch.randn(whole.shape, generator=generator))
        if x.is_floating_point() and name not in WEIGHTS and fill == "nan":
            whole.fill_(torch.nan)
        whole[real] = x.detach()
        whole.requires_grad_(x.requires_grad)
    return more | {"real": real}, real


def _take(objective: torch.nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Return the value, the gradients and the state after two steps."""
    for number in range(2):
        torch.manual_seed(number)
        value = objective(**inputs)
        found = gradients(value, with_own(objective, inputs))
        objective.after_step()  # type: ignore[operator]
    return value.detach(), found, objective.state_dict()


@law()
def blank_rows(case: Case) -> None:
    """Blank rows anywhere in a batch change nothing, to the bit."""
    inputs = case.features(7)
    value, grads, state = _take(case.make(), inputs)
    for fill in ("noise", "nan"):
        more, real = with_blanks(inputs, (0, 3, 4, 10), fill)
        with_them, more_grads, more_state = _take(case.make(), more)
        demand(torch.equal(with_them, value), f"the value is {with_them:.12g} with blank rows and {value:.12g} without")
        for name, gradient in more_grads.items():
            if name in more and per_sample(name):
                demand(not gradient[~real].any(), f"a blank row has a gradient in {name}")
                gradient = gradient[real]
            demand(torch.equal(gradient, grads[name]), f"blank rows change the gradient for {name}")
        for name, kept in state.items():
            demand(torch.equal(more_state[name], kept), f"blank rows change {name} in the state")


@law(applies=lambda case: "weights" in case.cls.needs)
def blank_rows_told(case: Case) -> None:
    """Weights and ids tell as well which rows are blank: who calls an objective by hand need not say `real`."""
    inputs = case.features(7)
    more, _ = with_blanks(inputs, (2, 8), "noise")
    del more["real"]
    values = [_value(case, given) for given in (inputs, more)]
    demand(torch.equal(*values), f"the value is {values[1]:.12g} with blank rows and {values[0]:.12g} without")


@law()
def only_blank_rows(case: Case) -> None:
    """Nothing but blank rows is nothing: value 0, gradients 0, and no state moves."""
    inputs, objective = case.features(7), case.make()
    _take(objective, inputs)
    before = {name: kept.clone() for name, kept in objective.state_dict().items()}
    none = {n: x[:0] if per_sample(n) else x for n, x in inputs.items()}
    value, grads, state = _take(objective, with_blanks(none, range(5), "nan")[0])
    demand(value == 0, f"the value of blank rows alone is {value.item()}")
    for name, gradient in grads.items():
        demand(not gradient.any(), f"blank rows alone have a gradient for {name}")
    for name, kept in before.items():
        demand(torch.equal(state[name], kept), f"blank rows alone change {name} in the state")


def _value(case: Case, inputs: dict[str, Tensor]) -> Tensor:
    objective = case.make()
    torch.manual_seed(0)
    value: Tensor = objective(**inputs).detach()
    return value


def _gradients(case: Case, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    objective = case.make()
    torch.manual_seed(0)
    return gradients(objective(**inputs), inputs)
