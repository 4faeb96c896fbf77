"""`mmclr train --dry-run`: the whole run is built and takes a step; what it will need is said, and nothing is kept."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils import flop_counter

from mmclr import parallel
from mmclr.data.stream.batch import Batch
from mmclr.display.terminal import say
from mmclr.models.clip import varlen
from mmclr.train.estimate import forecast
from mmclr.train.estimate.forecast import GIB
from mmclr.train.logging import clock, trackers
from mmclr.train.processes import join, threads
from mmclr.train.run import RunConfig
from mmclr.train.step import MODEL
from mmclr.train.trainer import Trainer

FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
ATTENTION = {  # the counter of torch knows the kernels of GPUs only
    FORWARD: lambda q, k, v, *_, **__: flop_counter.sdpa_flop_count(q, k, v),
    BACKWARD: lambda gradient, q, k, v, *_, **__: flop_counter.sdpa_backward_flop_count(gradient, q, k, v),
}


def dry_run(run: RunConfig) -> None:
    """Build everything, take steps on random data in the shape of the first batch, and print what the run will need."""
    run = run.resolved()
    trackers.choose(run.trackers)
    with tempfile.TemporaryDirectory() as folder, join.joined(run.timeout) as accelerator:
        trainer = Trainer(dataclasses.replace(run, out=str(Path(folder) / "run"), resume="never"), accelerator)
        with threads.settled(trainer):
            for line in report(trainer, run):
                if accelerator.is_main_process:
                    say(line, flush=True)


def report(t: Trainer, run: RunConfig) -> Iterator[str]:
    """Yield what there is to say; all ranks must ask for all of it."""
    with contextlib.closing(iter(t.loader)) as batches:  # type: ignore[type-var]
        batch = scrambled(next(batches), t)
    flops = count(t, batch)
    seconds = duration(t, batch)
    yield parameters(t)
    world, own = parallel.world(), len(batch.weights)
    micro = f" in micro-batches of {run.micro_batch}" if 0 < run.micro_batch < own else ""
    passes = " + ".join(f"{count} {name}" for name, count in forecast.seen(run).items())
    shared = f", which share out {', '.join(sorted(t.strategy.cut))}" if t.strategy.cut and world > 1 else ""
    yield f"step         {run.data.batch:,} pairs; {own:,} on each of {world} processes{micro}{shared}"
    yield f"images       {passes} of each pair go through the image tower, forward and backward"
    yield f"threads      {t.threads} of {threads.cores()} cores, in each process"
    yield f"compute      {flops / own / 1e9:,.3g} GFLOP a sample, forward and backward, as counted"
    kind = {None: "float32", torch.bfloat16: "bf16", torch.float16: "fp16"}[t.step.precision]
    weights = sum(t.strategy.size(name) for name in t.strategy.parameters)
    need = forecast.memory(run, weights, batch.lengths.float().mean().item(), kind, world, t.strategy.cut)
    yield f"memory       about {need / GIB:,.2g} GiB per process at the peak; {clock.memory() / GIB:,.2g} GiB held now"
    epoch = t.loader.batches_per_epoch
    yield f"steps        {epoch:,} an epoch of {t.loader.samples:,} samples, {t.steps:,} in all"
    yield f"time         {seconds:,.3g} s a step on random data, {run.data.batch / seconds:,.0f} samples/s"
    yield f"             {spoken(epoch * seconds)} an epoch, {spoken(t.steps * seconds)} in all, if data never lack"


def scrambled(batch: Batch, t: Trainer) -> Batch:
    """Return the batch with noise for images and random words between the first and the last of each text."""
    pixels = noise(batch.pixels)
    sets = {name: noise(x) for name, x in batch.sets.items()}
    more = None if batch.more is None else noise(batch.more)
    places = torch.arange(batch.tokens.shape[1])
    words = torch.randint(0, t.tokenizer.vocab_size, batch.tokens.shape)
    special = torch.tensor([t.tokenizer.bos_id, t.tokenizer.eos_id, t.tokenizer.pad_id])
    inside = (places > 0) & (places < batch.lengths[:, None] - 1) & ~torch.isin(words, special)
    tokens = torch.where(inside, words, batch.tokens)
    return dataclasses.replace(batch, pixels=pixels, sets=sets, more=more, tokens=tokens)


def noise(pixels: Tensor) -> Tensor:
    """Return random numbers of the same shape and type: uint8, or floats in [0, 1]; NaN behind an array's end."""
    if pixels.is_floating_point():
        return torch.rand(pixels.shape, dtype=pixels.dtype).masked_fill(pixels.isnan(), math.nan)
    return torch.randint(0, 256, pixels.shape, dtype=torch.uint8)


def count(t: Trainer, batch: Batch) -> int:
    """Take a step, uncompiled; return the FLOP of its matrix products and attention on this rank."""
    eager = torch.compiler.set_stance("force_eager") if t.run.compile else contextlib.nullcontext()
    if torch.cuda.is_available():
        varlen.kernel()  # its import tells the counter what it costs
    with eager, flop_counter.FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        t.take_step(batch)
    return int(counter.get_total_flops())


def duration(t: Trainer, batch: Batch) -> float:
    """Return the seconds of a step, of the slowest rank; one before it warms up."""
    seconds = 0.0
    for _ in range(2):
        started = time.monotonic()
        t.take_step(batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.monotonic() - started
    return float(parallel.maximum(torch.tensor(seconds, device=t.accelerator.device)))


def parameters(t: Trainer) -> str:
    """Say how many parameters there are, and where."""
    sizes = {name: t.strategy.size(name) for name in t.strategy.parameters}
    trained = sum(sizes[name] for name, p in t.strategy.parameters.items() if p.requires_grad)
    parts: Counter[str] = Counter()
    for name, size in sizes.items():
        own = name.startswith(MODEL)
        parts[name.removeprefix(MODEL).split(".")[0] if own else name.split(".")[0]] += size
    told = ", ".join(f"{name} {size / 1e6:,.2f} M" for name, size in parts.items() if size > 1)
    return f"parameters   {sum(sizes.values()) / 1e6:,.2f} M, {trained / 1e6:,.2f} M of them trained ({told})"


def spoken(seconds: float) -> str:
    """Say a time in its largest units."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
