"""Forecast of a run: steps, memory, disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mmclr.data.samples.text import Tokenizer
from mmclr.doctor.finding import Finding
from mmclr.models.two_tower import TwoTower, with_tokenizer
from mmclr.train.checkpoints import folder as checkpoint
from mmclr.train.estimate import forecast
from mmclr.train.estimate.forecast import GIB
from mmclr.train.run import RunConfig


def check(
    run: RunConfig, samples: int, tokens: float, tokenizer: Tokenizer, hardware: dict[str, Any]
) -> Iterator[Finding]:
    """Yield what the run will take. tokens: of a caption, on average."""
    yield from steps(run, samples)
    yield views(run)
    yield from precision(run, hardware)
    model = with_tokenizer(run.model, tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    with torch.device("meta"):
        weights = sum(p.numel() for p in TwoTower(model).parameters())
    yield memory(run, weights, tokens, hardware)
    yield from disk(run, weights)


def steps(run: RunConfig, samples: int) -> Iterator[Finding]:
    """Say how long the run is."""
    total, batch = run.total_steps(samples), run.data.batch
    epochs = total * batch / samples
    what = f"{total:,} steps of {batch:,} pairs: {total * batch:,} pairs, {epochs:.3g} epochs of {samples:,} samples"
    if run.optim.warmup > total:
        why = f"optim.warmup={run.optim.warmup:g} is longer than the run, so the learning rate never reaches its peak"
        yield Finding("note", what, why, "lower optim.warmup (below 1 it is a share of all steps)")
    else:
        yield Finding("ok", what)


def views(run: RunConfig) -> Finding:
    """Say what the image tower sees of each pair."""
    counts = forecast.seen(run)
    told = " + ".join(f"{count} {name}" for name, count in counts.items())
    times = f", {sum(counts.values())} passes through the image tower" if len(counts) > 1 else ""
    return Finding("ok", f"of each pair the model sees {told}{times}")


def precision(run: RunConfig, hardware: dict[str, Any]) -> Iterator[Finding]:
    """Say when the config's precision does not fit the device."""
    if run.precision == "fp16" and not hardware["devices"]:
        yield Finding("BROKEN", "precision: fp16", "it needs a GPU, and there is none", "precision: auto")
    elif run.precision == "bf16" and not hardware["bf16"]:
        yield Finding("note", "precision: bf16", "it is many times slower than float32 here", "precision: auto")


def memory(run: RunConfig, weights: int, tokens: float, hardware: dict[str, Any]) -> Finding:
    """Estimate what one process needs at its peak, and compare it with what there is."""
    devices = [total for _, total in hardware["devices"]]
    processes = max(1, len(devices))
    kind = run.precision if run.precision != "auto" else "bf16" if devices and hardware["bf16"] else "float32"
    need = forecast.memory(run, weights, tokens, kind, processes)
    there = min(devices) if devices else hardware["memory"]
    if there is None:
        return Finding("ok", f"{weights / 1e6:.1f} M weights; about {need / GIB:.2g} GiB at the peak")
    each = f" on each of {processes} GPUs" if processes > 1 else ""
    what = f"{weights / 1e6:.1f} M weights; about {need / GIB:.2g} GiB of {there / GIB:.0f} GiB{each} at the peak"
    if need > 0.9 * there:
        return Finding("note", what, "it will probably run out of memory", "a smaller data.batch, or more processes")
    return Finding("ok", what)


def disk(run: RunConfig, weights: int) -> Iterator[Finding]:
    """Say what is in the run's folder, and whether its checkpoints will fit."""
    passed: dict[Path, str] = {}
    newest = checkpoint.latest(run.folder, passed) if run.resume == "auto" else None
    if newest is not None:
        why = "the run goes on from it"
        yield Finding("note", f"{newest} is there", why, "resume=never or another name starts anew")
    elif passed:
        path, wrong = next(iter(passed.items()))
        why = "the run has no whole checkpoint to go on from"
        yield Finding("BROKEN", f"{path} is not whole ({wrong})", why, "resume=never or another name starts anew")
    there = next(path for path in (run.folder.resolve(), *run.folder.resolve().parents) if path.exists())
    one = 4 * weights * (3 + bool(run.average.decay))  # weights and Adam's moments
    need, free = one * (run.save.keep + 1), shutil.disk_usage(there).free
    what = (
        f"checkpoints of {one / GIB:.2g} GiB, {run.save.keep or 'all'} kept; {free / GIB:.3g} GiB are free in {there}"
    )
    if not _writable(there):
        yield Finding(
            "BROKEN", f"{there} cannot be written", "the run's folder goes there", "set out: to another folder"
        )
    elif need > free:
        yield Finding("BROKEN", what, "there is no room for them", "set out: to another disk, or lower save.keep")
    else:
        yield Finding("ok", what)


def _writable(folder: Path) -> bool:
    probe = folder / ".mmclr-doctor.tmp"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True
