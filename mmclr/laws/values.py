"""Laws of values and gradients, and of the number types that they are computed in."""

from __future__ import annotations

import torch
from torch import Tensor

from mmclr.laws.case import Case, gradients, per_sample, with_own
from mmclr.laws.law import demand, law
from mmclr.laws.stopped import Stopped
from mmclr.laws.tolerance import bound, close


def _finite(case: Case, inputs: dict[str, Tensor], of: str) -> dict[str, Tensor]:
    objective = case.make()
    value = objective(**inputs)
    demand(value.shape == (), f"the value of {of} has the shape {list(value.shape)}; it is one number")
    demand(value.isfinite(), f"the value of {of} is {value.item()}")
    grads = gradients(value, inputs)
    for name, gradient in grads.items():
        demand(gradient.isfinite().all(), f"the gradient of {of} for {name} is not finite")
    return grads


@law()
def finite(case: Case) -> None:
    """Value and gradients are finite, and some gradient is not 0."""
    grads = _finite(case, case.features(12), "a batch")
    demand(any(g.abs().sum() > 0 for g in grads.values()), "no feature has a gradient: nothing is trained")


@law()
def tiny_batches(case: Case) -> None:
    """Batches of one and of two samples have a finite value and finite gradients."""
    for b in (1, 2):
        _finite(case, case.features(b), f"a batch of {b}")


@law()
def repeated_sample(case: Case) -> None:
    """A batch of one sample repeated has a finite value and finite gradients."""
    inputs = case.features(6)
    for name, x in inputs.items():
        if per_sample(name) and name != "index":
            inputs[name] = x.detach()[:1].repeat(6, *[1] * (x.dim() - 1)).requires_grad_(x.requires_grad)
    _finite(case, inputs, "a sample repeated")


@law()
def derivative(case: Case) -> None:
    """Gradients are the derivative, by finite differences in float64; what is detached counts as constant."""
    inputs, stopped = case.features(9), Stopped()

    def value(given: dict[str, Tensor]) -> Tensor:
        objective = case.make()
        torch.manual_seed(0)
        with stopped:
            found: Tensor = objective(**given)
        return found

    grads = gradients(value(inputs), inputs)
    for name, gradient in grads.items():
        generator = torch.Generator().manual_seed(7)
        way = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype)
        way /= way.norm()
        slope, off, limit = (gradient * way).sum().item(), [], 0.0
        for h in (1e-4, 1e-5, 1e-6):  # a kink, or the rounding of a small step, disturbs one of them
            up, down = (value({**inputs, name: inputs[name].detach() + sign * h * way}).item() for sign in (1, -1))
            off.append(abs((up - down) / (2 * h) - slope))
            limit = 1e-4 * (abs(slope) + 1e-2 * gradient.norm().item() + 1e-5)
        demand(
            min(off) <= limit,
            f"the gradient for {name} is not the derivative: {slope:.6g} along a direction, {min(off):.2g} off the "
            "finite difference",
        )


@law(once=True)
def names_used(case: Case) -> None:
    """Another value of each feature that is asked for changes the second step: value, gradient, or state after it."""
    inputs, other = (case.features(12, seed=seed) for seed in (0, 1))
    before = _second(case, inputs, inputs)
    for name, x in inputs.items():
        found = [other[name]] if per_sample(name) else [other[name] * times for times in (0, 0.5, 3)]
        changed = [new.detach().requires_grad_(x.requires_grad) for new in found]
        after = [_second(case, inputs, inputs | {name: new}) for new in changed]
        same = [all(close(a, b, 1e-9) for a, b in zip(before, values)) for values in after]
        demand(not all(same), f"forward asks for {name}, which changes nothing; leave it out")


def _second(case: Case, first: dict[str, Tensor], second: dict[str, Tensor]) -> list[Tensor]:
    """Return the value and all gradients of a step on `second` after one on `first`, and the state after both."""
    objective = case.make()
    objective(**first)
    objective.after_step()
    torch.manual_seed(1)
    found = everything(objective, second)
    objective.after_step()
    return [*found, *objective.state_dict().values()]


def everything(objective: torch.nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Return the value and all gradients, those of the objective's own weights too."""
    value = objective(**inputs)
    return [value, *gradients(value, with_own(objective, inputs)).values()]


@law()
def own_weights(case: Case) -> None:
    """Every weight of its own has a gradient at any time of a training: processes wait for each other's."""
    for progress in (0.0, 0.5, 1.0):
        objective, inputs = case.make(), case.features(9)
        own = {name: p for name, p in objective.named_parameters() if p.requires_grad}
        if not own:
            return
        if "progress" in inputs:
            inputs["progress"] = torch.full_like(inputs["progress"], progress)
        found = torch.autograd.grad(objective(**inputs), list(own.values()), allow_unused=True)
        missing = [name for name, gradient in zip(own, found) if gradient is None]
        demand(
            not missing,
            f"{', '.join(missing)}: no gradient when a share of {progress:g} of the training is done, and processes "
            "wait for it; multiply by 0 what has no part",
        )


@law()
def half_precision(case: Case) -> None:
    """Features of half precision give the float32 value of the same numbers."""
    inputs = {n: x.bfloat16() if x.is_floating_point() else x for n, x in case.features(12).items()}
    wide = {n: x.float() if x.is_floating_point() else x for n, x in inputs.items()}
    value, exact = (case.make(torch.float32)(**given) for given in (inputs, wide))
    demand(value.dtype == torch.float32, f"the value of bfloat16 features is {value.dtype}, not float32")
    off = bound(terms=16)
    demand(
        torch.isclose(value, exact, rtol=off, atol=off),
        f"the value is {value:.7g} of bfloat16 features and {exact:.7g} of the same numbers in float32",
    )


@law()
def autocast(case: Case) -> None:
    """Autocast changes nothing."""
    inputs = case.features(12, dtype=torch.float32)
    plain = everything(case.make(torch.float32), inputs)
    objective = case.make(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value = objective(**inputs)
    cast = [value, *gradients(value, with_own(objective, inputs)).values()]
    for what, a, b in zip(["value", *["gradient"] * len(cast)], cast, plain):
        demand(close(a, b, bound(terms=16)), f"autocast changes the {what}")
