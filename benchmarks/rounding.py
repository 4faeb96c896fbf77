"""What `pair_sum` and the plain formula lose in float32, over many orders in which the features are summed.

    python benchmarks/rounding.py [--orders N]

The case is the one that failed on another CPU: 17 rows, 33 columns, D = 300, scale 100, bias -17. Another order of the
features is what another CPU, instruction set or number of threads is to a sum. The last line is one JSON object:
root mean square, mean and largest of the error of the total, for both.
"""

from __future__ import annotations

import argparse
import json

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr.losses import algebra

ROWS, COLUMNS, WIDTH, SCALE, BIAS = 17, 33, 300, 100.0, -17.0


def plain(x: Tensor, y: Tensor) -> Tensor:
    """Return the sum of softplus(scale <x_i, y_j> + bias) over all pairs, as anybody would write it."""
    return F.softplus(SCALE * x @ y.T + BIAS).sum()


def errors(orders: int) -> dict[str, list[float]]:
    """Return the errors of both, an order at a time."""
    generator = torch.Generator().manual_seed(0)
    x, y = (F.normalize(torch.randn(n, WIDTH, generator=generator), dim=1) for n in (ROWS, COLUMNS))
    exact = plain(x.double(), y.double()).item()
    found: dict[str, list[float]] = {"pair_sum": [], "plain": []}
    for _ in range(orders):
        order = torch.randperm(WIDTH, generator=generator)
        turned = x[:, order].contiguous(), y[:, order].contiguous()
        found["pair_sum"].append(algebra.pair_sum(*turned, SCALE, BIAS).total.item() - exact)
        found["plain"].append(plain(*turned).item() - exact)
    return {"exact": [exact], **found}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=2000)
    found = errors(parser.parse_args().orders)
    told = {"exact": found.pop("exact")[0]}
    for name, values in found.items():
        e = torch.tensor(values, dtype=torch.float64)
        told |= {f"{name}_rms": e.square().mean().sqrt().item(), f"{name}_mean": e.mean().item()}
        told[f"{name}_largest"] = e.abs().max().item()
    print(json.dumps({name: float(f"{value:.3g}") for name, value in told.items()}))


if __name__ == "__main__":
    main()
