"""Laws of number types."""

from __future__ import annotations

import torch

from mmclr.laws.case import Case, gradients, with_own
from mmclr.laws.law import demand, law
from mmclr.laws.tolerance import bound, close
from mmclr.laws.values import everything


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
