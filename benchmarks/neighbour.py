"""Training by default against the best fixed number of threads, on a quiet machine and beside one busy process.

python benchmarks/neighbour.py [--rounds 3]: a small model, a run of its own each time, in turns; medians. The machine
must be quiet. The last line is JSON: idle_ratio and neighbour_ratio are the default's samples/s over those of the best
of one and of two threads, under the same conditions.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

SAID = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
WAYS = {"default": [], "1 thread": ["threads=1"], "2 threads": ["threads=2"]}
MODEL = ["model.preset=icons", "data.batch=64", "data.workers=0", "data.cache=decoded", "steps=150", "epochs=null",
         "log_every=5", "diagnose_every=0", "trackers=none", "save.every_minutes=0"]  # fmt: skip


def write_shard(path: Path, samples: int = 512) -> None:
    draw = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for number in range(samples):
            image = io.BytesIO()
            Image.fromarray(draw.integers(0, 256, (32, 32, 3), np.uint8)).save(image, "PNG")
            for name, data in (("png", image.getvalue()), ("txt", f"image number {number}".encode())):
                info = tarfile.TarInfo(f"{number:06d}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@contextmanager
def neighbour(busy: bool) -> Iterator[None]:
    """Keep one core busy while the context lasts."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def rate(folder: Path, words: list[str]) -> tuple[float, int]:
    """Return the samples/s of a run, and its threads."""
    env = {name: value for name, value in os.environ.items() if name not in SAID}
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [sys.executable, "-m", "mmclr.train", "base.yaml", f"data.train={folder / '0.tar'}", *MODEL]
        subprocess.run([*command, f"out={out}", *words], env=env, check=True, capture_output=True)
        rows = [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "samples_per_s" in row][2:]  # the first ones fill the cache of decoded images
    return statistics.median(row["samples_per_s"] for row in rows), rows[-1]["threads"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shard(folder / "0.tar")
        for condition, busy in (("idle", False), ("neighbour", True)):
            seen: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(rounds):
                for way, words in WAYS.items():
                    with neighbour(busy):
                        speed, threads = rate(folder, words)
                    seen[way].append(speed)
                    print(f"{condition:<10} {way:<10} {speed:8.1f} samples/s on {threads}", flush=True)
            middle = {way: statistics.median(speeds) for way, speeds in seen.items()}
            result[f"{condition}_ratio"] = middle["default"] / max(middle[way] for way in WAYS if way != "default")
    print(json.dumps({key: round(value, 3) for key, value in result.items()}))


if __name__ == "__main__":
    main()
