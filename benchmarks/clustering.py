"""What clusters that follow a training cost per step, beside a step of ViT-B/32 at a batch of 256.

    python benchmarks/clustering.py [--clusters 1000] [--batch 256] [--device cuda]

On a GPU by the wall, on a CPU by the process's time of one thread, where forward and backward of the towers are
measured with 8 pairs and taken times batch / 8; an optimizer is not in it. The reservoir is full, 65,536 samples of 512
numbers; what a refresh takes is spread over 2,000 steps. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from mmclr.config import check
from mmclr.losses import Facts
from mmclr.losses.clusters.clustering import RESERVOIR, Clustering
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower

REFRESH = 2000


def seconds(run: Callable[[], object], device: str, rounds: int) -> float:
    """Return the median time of some rounds, after one that warms up."""
    clock, times = (time.perf_counter if device == "cuda" else time.process_time), []
    for _ in range(rounds + 1):
        start = clock()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return statistics.median(times[1:])


def clustering(clusters: int, batch: int, device: str) -> tuple[float, float]:
    """Return the seconds of a refresh, and of what every step does."""
    made = Clustering([clusters], Facts(samples=RESERVOIR, width=512, batch=batch), REFRESH).to(device)
    x = F.normalize(torch.randn(RESERVOIR, 512, device=device), dim=1)
    made.features.rows.copy_(x)
    made.samples.rows.copy_(torch.arange(RESERVOIR)[:, None])
    every, index = made.memory(), torch.arange(batch, device=device)
    salt = iter(range(1, 100))
    passes = seconds(lambda: made[0].fit(*every, False, 1, next(salt)), device, 1)  # two: a round, and the counts
    refresh = passes / 2 * (made.rounds + 1)
    made.steps.fill_(1 << 20)
    made.moved.fill_(1 << 20)

    def step() -> None:
        made[0].nearest(x[:batch])
        made.keep(index, x[:batch])
        made.update()

    return refresh, seconds(step, device, 20)


def towers(batch: int, device: str) -> float:
    """Return the seconds of forward and backward of ViT-B/32's towers, by the pair, times the batch."""
    pairs = batch if device == "cuda" else 8
    model = TwoTower(check(ModelConfig, {"embed": 512, "text": {"vocab": 49408}})).to(device)
    pixels = torch.randn(pairs, 3, 224, 224, device=device)
    tokens = torch.randint(1, 49000, (pairs, 16), device=device)
    lengths = torch.full((pairs,), 16)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            (model.encode_image(pixels) * model.encode_text(tokens, lengths)).sum().backward()

    return seconds(step, device, 3) * batch / pairs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    refresh, step = clustering(args.clusters, args.batch, args.device)
    whole = towers(args.batch, args.device)
    found = {"refresh": refresh, "step": step, "towers": whole, "share": (step + refresh / REFRESH) / whole}
    print(json.dumps({name: float(f"{value:.4g}") for name, value in found.items()}))


if __name__ == "__main__":
    main()
