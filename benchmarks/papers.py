"""Time and memory of a training step of every ready config, as multiples of plain InfoNCE's: what PAPERS.md shows.

    python benchmarks/papers.py [STEM ...] [--stale] [--rounds N] [--batch B] [--write]

Each config gets a process of its own, whose trainer is the real one, on drawn images of 32 px that a thread decodes
beforehand. There it takes two steps, after which the peak of the memory is read; then a second trainer, of plain
InfoNCE, takes turns with it, step by step, and the ratio is the median of the rounds' ratios of CPU time. One thread.
--write puts what was measured into mmclr/papers/costs.json. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from mmclr.papers import costs

SAMPLES, SHARD, TEACHER = 512, "00000.tar", "teacher"
OVERRIDES = ["data.workers=0", "data.cache=decoded", "model.preset=icons", "epochs=null", "samples=null", "steps=100",
             "diagnose_every=0", "trackers=none", "resume=never", "precision=float32"]  # fmt: skip


def draw(folder: Path) -> None:
    """Write a shard of noise with captions of four words, classes and targets, and labels beside it."""
    from mmclr.data import columns
    from mmclr.data.columns import Kind, clusters
    from mmclr.data.shards.index import open_indices

    rng = np.random.default_rng(0)
    words = [f"{a}{b}" for a in "bdfglmnprst" for b in ("a", "e", "i", "o")]
    with tarfile.open(folder / SHARD, "w") as tar:
        for number in range(SAMPLES):
            png = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(png, "PNG")
            text = " ".join(rng.choice(words, 4))
            told = json.dumps({"target": number % 50 / 10}).encode()
            members = {"png": png.getvalue(), "txt": text.encode(), "cls": b"%d" % (number % 20), "json": told}
            for ending, data in members.items():
                info = tarfile.TarInfo(f"{number:06d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    indices = open_indices([str(folder / SHARD)])
    labels = rng.integers(0, 100, (SAMPLES, 8), dtype=np.int32)
    clusters.write(indices, "clusters", [labels], {"clusters": 100})
    clusters.write(indices, "stage0", [labels[:, :1] % 2], {"clusters": 2})
    for name, classes in (("label", 20), ("domain", 2)):
        with columns.write(indices[0], name, Kind("int32"), {"classes": classes}) as column:
            column.put(np.arange(SAMPLES), np.arange(SAMPLES, dtype=np.int32) % classes)


def filled(config: Path, folder: Path) -> list[str]:
    """What a config leaves open: shards, of each source of a mixture, and an earlier model where it names one."""
    tree = yaml.safe_load(config.read_text(encoding="utf-8"))
    sources = tree.get("data", {}).get("train", "")
    mixture = json.dumps({source: {"urls": str(folder / SHARD)} for source in sources})
    train = mixture if isinstance(sources, dict) else folder / SHARD
    return [f"data.train={train}", *([f"teacher={folder / TEACHER}", "init.source=''"] if "teacher" in tree else [])]


def earlier(folder: Path) -> None:
    """Train a step of plain InfoNCE, as the model of an earlier task; in a process whose memory is not this one's."""
    words = [*OVERRIDES, f"data.train={folder / SHARD}", f"out={folder / TEACHER}", "steps=1", "data.batch=64"]
    command = [sys.executable, "-m", "mmclr.train", str(costs.configs()[0]), *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Runner:
    """A trainer and its batches."""

    def __init__(self, config: Path, folder: Path, batch: int) -> None:
        from accelerate import Accelerator

        from mmclr.config import load
        from mmclr.train.run import RunConfig
        from mmclr.train.trainer import Trainer

        more = [*filled(config, folder), f"data.batch={batch}", f"out={folder / config.stem}"]
        self.trainer = Trainer(load(RunConfig, config, [*OVERRIDES, *more]), Accelerator(cpu=True))
        self.batches = iter(self.trainer.loader)

    def step(self) -> float:
        """CPU seconds of one step; its batch is there already."""
        batch = next(self.batches)
        start = time.process_time()
        values = self.trainer.take_step(batch)
        seconds = time.process_time() - start
        assert bool(torch.isfinite(values["loss"])), values
        return seconds


def peak() -> float:
    """The peak of this process's memory so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(config: Path, folder: Path, batch: int, rounds: int) -> dict[str, Any]:
    """Return MiB that the steps of one config added to this process, and its time over plain InfoNCE's."""
    from mmclr.train import trainer  # noqa: F401  (what importing takes is no memory of the step)

    before, mine = peak(), Runner(config, folder, batch)
    for _ in range(2):
        mine.step()
    mib, plain = peak() - before, Runner(costs.configs()[0], folder, batch)
    plain.step()
    pairs = [(mine.step(), plain.step()) for _ in range(rounds)]
    return {"mib": mib, "time": statistics.median(a / b for a, b in pairs)}


def main() -> None:
    """Measure in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stems", nargs="*", help="configs of configs/papers without their ending; all by default")
    parser.add_argument("--stale", action="store_true", help="those that are not measured, or changed since")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--write", action="store_true", help="into mmclr/papers/costs.json")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)  # the folder of the drawn shard
    args = parser.parse_args()
    torch.set_num_threads(1)
    stems = {*(args.stems or ()), *(costs.stale() if args.stale else ())}
    if args.stale and not stems:
        print("{}")
        return
    chosen = {path.stem: path for path in costs.configs() if not stems or path.stem in {*stems, "clip"}}
    if args.inside:
        print(json.dumps(measure(chosen[args.stems[0]], args.inside, args.batch, args.rounds)))
        return
    known = json.loads(costs.DATA.read_text()) if costs.DATA.is_file() else {"rows": {}}
    known["about"] = {"device": "one CPU core", "batch": args.batch}
    found, base = {}, 0.0
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder))
        if any("teacher" in yaml.safe_load(path.read_text(encoding="utf-8")) for path in chosen.values()):
            earlier(Path(folder))
        for stem, path in chosen.items():
            command = [
                sys.executable,
                __file__,
                stem,
                "--inside",
                folder,
                f"--rounds={args.rounds}",
                f"--batch={args.batch}",
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{stem}: {done.stderr.strip().splitlines()[-1]}", flush=True)
                continue
            row = json.loads(done.stdout.splitlines()[-1])
            base = base or row["mib"]  # of plain InfoNCE, which is the first
            found[stem] = {"time": round(row["time"], 2), "memory": round(row["mib"] / base, 2)}
            print(f"{stem}: {row['time']:.2f} x the time, {row['mib']:.0f} MiB", flush=True)
            known["rows"][stem] = {**found[stem], "of": costs.fingerprint(path)}
            if args.write:
                costs.DATA.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps({f"{stem}_{name}": value for stem, row in found.items() for name, value in row.items()}))


if __name__ == "__main__":
    main()
