"""What plain RGB photos cost beside an older commit: batches of the loader, and steps of the trainer, in turns.

    python benchmarks/before.py [OLD] [--data FOLDER] [--rounds N] [--parts small,photos,step]

OLD is a commit, of which a worktree is made, or a folder. Both sides work on picto's pairs in a process of their own,
with one thread, round by round; the first of a round is now this one, now that. Measured is CPU time.

    small   batches of 256 images of 32 px with changed colours, decoded once and kept in memory
    photos  batches of 64 images of 224 px, read, decoded and cut anew
    step    a step of small towers on 128 pairs of 64 px: forward, backward, clipping, AdamW

The last line is one JSON object: of each part the median of the rounds' ratios new / old, and its 95 % interval.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import peers

ROOT = Path(__file__).parent.parent
OLD = "8002a38"  # the last commit that knew RGB photos alone

SIDE = """
import sys, time
from mmclr.config import load
part, shards, words, out = sys.argv[1:]
COLOURS = {"grey": 0.25, "brightness": 0.15, "contrast": 0.25, "saturation": 0.4}
if part == "step":
    from accelerate import Accelerator
    from mmclr.train.run import RunConfig
    from mmclr.train.trainer import Trainer
    sizes = {"embed": 128, "image": {"size": 64, "patch": 8, "width": 192, "layers": 6, "heads": 3, "mlp": 768},
             "text": {"context": 32, "width": 192, "layers": 4, "heads": 3, "mlp": 768}}
    tree = {"data": {"train": shards, "batch": 128, "workers": 0}, "model": sizes, "tokenizer": words, "out": out,
            "steps": 100000, "epochs": None, "trackers": "none", "threads": 1, "precision": "float32"}
    import yaml, pathlib
    path = pathlib.Path(out + ".yaml"); path.write_text(yaml.safe_dump(tree))
    trainer = Trainer(load(RunConfig, path), Accelerator())
    batches = iter(trainer.loader)
    held = [next(batches) for _ in range(4)]
    def work(number):
        for batch in held:
            trainer.take_step(batch)
else:
    from mmclr.data.samples.text import Tokenizer
    from mmclr.data.stream.batch_builder import Start
    from mmclr.data.stream.loader import DataConfig, Loader
    small = part == "small"
    more = {"batch": 256, "cache": "decoded", "augment": COLOURS} if small else {"batch": 64}
    loader = Loader(load(DataConfig, {"train": shards, "workers": 0, **more}), Tokenizer.load(words),
                    32 if small else 224, 0, 0, 1, 1)
    size, count = more["batch"], 20 if small else 12
    def work(number):
        for place in range(count):
            loader.assembler(Start((number * count + place) * size, size))
    if small:
        work(0)
work(0)
print("ready", flush=True)
for line in sys.stdin:
    begin = time.process_time()
    work(int(line))
    print(time.process_time() - begin, flush=True)
"""


@contextlib.contextmanager
def tree(commit: str) -> Iterator[Path]:
    """Give the folder of a commit: itself, or a worktree that is taken away again."""
    if Path(commit).is_dir():
        yield Path(commit).resolve()
        return
    with tempfile.TemporaryDirectory() as place:
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", f"{place}/tree", commit], check=True)
        try:
            yield Path(place) / "tree"
        finally:
            subprocess.run([*git, "remove", "--force", f"{place}/tree"], check=True)


def race(folders: list[Path], part: str, shards: str, words: Path, rounds: int) -> list[list[float]]:
    """Return the CPU seconds of both sides, round by round."""
    with tempfile.TemporaryDirectory() as place:
        sides = [_start(folder, [part, shards, str(words), f"{place}/{at}"]) for at, folder in enumerate(folders)]
        for side in sides:
            while (line := side.stdout.readline()) and line.strip() != "ready":  # type: ignore[union-attr]
                pass
        found = []
        for number in range(1, rounds + 1):
            times = {}
            for at in (0, 1) if number % 2 else (1, 0):
                print(number, file=sides[at].stdin, flush=True)
                times[at] = float(sides[at].stdout.readline())  # type: ignore[union-attr]
            found.append([times[0], times[1]])
        for side in sides:
            side.kill()
        return found


def _start(folder: Path, words: list[str]) -> subprocess.Popen[str]:
    own = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", SIDE, *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env={**os.environ, **own}, stdin=pipe, stdout=pipe, text=True, cwd=folder)


def ratio(found: list[list[float]], seed: int = 0) -> tuple[float, float, float]:
    """Return the median of new / old and its 95 % interval, rounds drawn anew."""
    old, new = np.array(found).T
    draws = np.random.default_rng(seed).integers(0, len(old), (2000, len(old)))
    low, high = np.percentile(np.median((new / old)[draws], 1), [2.5, 97.5])
    return float(np.median(new / old)), float(low), float(high)


def main() -> None:
    """Race part by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", nargs="?", default=OLD)
    parser.add_argument("--data", type=Path, default=peers.PICTO, help="folder of picto's shards")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--parts", default="small,photos,step")
    args = parser.parse_args()
    shards, result = str(args.data / "train-*.tar"), {}
    with tree(args.old) as old, tempfile.TemporaryDirectory() as place:
        words = Path(place) / "words"
        command = [sys.executable, "-m", "mmclr.cli", "data", "tokenizer", shards, str(words), "--size", "2000"]
        subprocess.run([*command, "--context", "32"], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        for part in args.parts.split(","):
            found = race([old, ROOT], part, shards, words, args.rounds)
            middle, low, high = ratio(found)
            seconds = np.median(np.array(found), 0)
            print(
                f"{part}: old {seconds[0]:.3f} s, new {seconds[1]:.3f} s, {middle:.3f} ({low:.3f} to {high:.3f})",
                flush=True,
            )
            result[part] = {"ratio": round(middle, 4), "low": round(low, 4), "high": round(high, 4)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
