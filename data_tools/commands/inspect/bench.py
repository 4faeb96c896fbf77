"""Measure whether the loader is fast enough, and what it waits for."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mmclr.config import load
from mmclr.data.pixels.choose import Square
from mmclr.data.random import key
from mmclr.data.samples.skipped import Fault
from mmclr.data.samples.text import Tokenizer
from mmclr.data.shards.shards import Sample, bounds
from mmclr.data.stream.loader import DataConfig, Loader
from mmclr.display.terminal import say
from mmclr.errors import UserError


def main(argv: list[str]) -> None:
    """Measure the loader's stages and the loader."""
    parser = argparse.ArgumentParser(
        description="Measure how many samples a second one core reads, decodes, crops and tokenizes, and how many the "
        "loader gives with its workers; say what is slowest and how many workers a wanted rate needs.",
        epilog="example: mmclr data bench 'shards/*.tar' size=224 workers=4 rate=2000   (also any key of data:)",
    )
    parser.add_argument("shards", help="shards as in a config: 'data/{00000..00009}.tar', a glob, several with ::")
    parser.add_argument(
        "settings", nargs="*", help="key=value of data:, and size=PX, channels=N, seconds=S, rate=SAMPLES_A_SECOND"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    args = parser.parse_intermixed_args(argv)
    own = {"size": 224.0, "channels": 3.0, "seconds": 5.0, "rate": 0.0}
    rest = []
    for text in args.settings:
        name, _, value = text.partition("=")
        if name in own:
            own[name] = float(value)
        else:
            rest.append(text)
    config = load(DataConfig, {"train": args.shards}, rest)
    loader = Loader(config, Tokenizer.load("clip"), Square(int(own["size"]), channels=int(own["channels"])), seed=0)
    torch.set_num_threads(1)
    costs, rate = stages(loader), through(loader, own["seconds"])
    if args.json:
        each = {name: 1 / cost for name, cost in costs.items()}
        say(json.dumps({"samples_per_second": {**each, "loader": rate}, "workers": config.workers}))
        return
    for line in report(costs, rate, config.workers, own["rate"]):
        say(line)


def stages(loader: Loader, samples: int = 256) -> dict[str, float]:
    """Return seconds per sample of each stage, on one core. The first time a file is read it may come from disk."""
    maker = loader.assembler
    numbers = loader.order.at(np.arange(min(samples, loader.samples)))[0].tolist()
    medium = maker.medium
    out = {"read": _each(numbers, lambda number: _usable(loader, number, only_read=True))}
    stored = [sample for number in numbers if (sample := _usable(loader, number)) is not None]
    if not stored:
        raise UserError(f"none of the first {len(numbers)} samples can be used; mmclr data verify says why")

    def decode(sample: Any) -> Any:
        opened = loader.assembler.store.first(sample)
        return medium.decode(opened, min(opened.size) / medium.size)

    out["decode"] = _each(stored, decode)
    some = stored[:32]
    sizes = np.array([loader.assembler.store.first(sample).size for sample in some])
    drawn = medium.draw(loader.config.augment, sizes, key(np.arange(len(some))))
    images = list(zip(map(decode, some), drawn))
    out["crop"] = _each(images * 4, lambda pair: medium.cut(*pair))
    texts = [maker.chooser.candidates(sample)[0][1][0] for sample in stored]
    begin = time.perf_counter()
    maker.tokenizer.pad(maker.tokenizer.encode(texts))
    out["caption"] = (time.perf_counter() - begin) / len(texts)
    return out


def through(loader: Loader, seconds: float) -> float:
    """Return samples a second of the loader with its workers, once they are warm."""
    batches = iter(loader)
    next(batches)
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        count += len(next(batches).keys)
    rate = count / (time.perf_counter() - begin)
    batches.close()  # type: ignore[attr-defined]
    return rate


def report(costs: dict[str, float], rate: float, workers: int, wanted: float) -> list[str]:
    """Return what people should read."""
    lines = [f"{name:<8} {1 / cost:>10,.0f} samples/s on one core" for name, cost in costs.items()]
    slowest = max(costs, key=lambda name: costs[name])
    one = 1 / sum(costs.values())
    lines.append(f"all       {one:>9,.0f} samples/s on one core; {slowest} takes {costs[slowest] * one:.0%} of it")
    lines.append(f"loader   {rate:>10,.0f} samples/s with {workers} workers on {os.cpu_count()} cores")
    if slowest == "decode":
        lines.append("smaller stored images help most: mmclr data pack or reshard with --short-side; decoder=turbo")
    if wanted:
        need = int(np.ceil(wanted / one))
        enough = "is enough" if rate >= wanted else f"is not enough: about {need} workers and cores are needed"
        lines.append(f"for {wanted:,.0f} samples/s this {enough}")
    return lines


def _usable(loader: Loader, number: int, only_read: bool = False) -> Sample | None:
    """Return a sample, None where it cannot be read, or (without `only_read`) decoded: training counts these."""
    begins = bounds(loader.parts)
    part = int(np.searchsorted(begins, number, side="right")) - 1
    try:
        sample = loader.parts[part].read(number - int(begins[part]))
        if not only_read:
            medium = loader.assembler.medium
            medium.decode(loader.assembler.store.first(sample))
            loader.assembler.chooser.candidates(sample)
    except Fault:
        return None
    return sample


def _each(items: list[Any], action: Callable[[Any], Any]) -> float:
    begin = time.perf_counter()
    for item in items:
        action(item)
    return (time.perf_counter() - begin) / len(items)
