"""Whether two commits train the same, bit for bit: an older one (cbe6e2c) and the present one, run by run.

    python benchmarks/same_as.py [OLD] [NEW] [--data FOLDER] [--runs NAME ...]

OLD and NEW are commits, of which worktrees are made, or folders. Both train the same configs on the same machine with
one thread on pairs of picto (the folder --data): 40 steps each, alone and as two processes, with what a run can have:
a teacher that follows, views, captions, clusters, classes, weights, micro-batches, per-sample state, Muon. Then NEW
goes on from OLD's middle checkpoint. Compared are every number of log.jsonl that is no clock or size, every tensor of
every checkpoint, and the place in the data. The last line is one JSON object: runs, numbers and tensors that were
compared, and how many differ without a reason in MEANT.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peers
from differences import Difference, differences

OLD, STEPS, SHARDS = "cbe6e2c", 40, 2
EXPECTED = "the weights of algebra.expected are made to add up to 1 by now, which moves last bits"

# What may differ on purpose: a pattern of "RUN FILE NAME", why, and how far at most, as a share. Nothing else may.
MEANT = [
    (r"batch\.effective_negatives", EXPECTED, 1e-5),
    (
        r"batch\.(matched_variance|negative_mean|negative_variance)",
        "diagnostics that the older commit has not",
        math.inf,
    ),
    (r"^wscol", EXPECTED, 1e-2),
]

# What all runs share by intention, so that known changes do not hide others.
FIXED = {
    "OMP_NUM_THREADS=1": "the present commit tries how many threads are fastest; sums over more are rounded otherwise",
    "clip named in every config": "base.yaml says objectives: {clip: {}} by now, to which a config's own are added",
    "no blank rows": "tail: carry and no bad samples: objectives leave blank rows out by now, where they were "
    "weighted with 0 before",
    "tensors by their present names": "differences.RENAMED; values are compared, not what they are called",
}

TINY = {
    "preset": "icons",
    "image": {"size": 32, "width": 64, "layers": 2, "heads": 2, "mlp": 128},
    "text": {"width": 64, "layers": 1, "heads": 2, "mlp": 128},
}
EVERY = {
    "name": "same", "steps": STEPS, "epochs": None, "log_every": 1, "diagnose_every": 10, "trackers": "none",
    "precision": "float32", "average": {"decay": 0.9}, "model": TINY, "optim": {"lr": 1e-3},
    "save": {"every_steps": STEPS // 2, "keep": 0},
}  # fmt: skip
TEACHER = {"directpred": {}, "pixpro": {"weight": 0.25}, "swav_views": {"weight": 0.2}}
CLASSES = {"mlcd": {"weight": 0.1}, "supcon_label": {"weight": 0.5}}
STATE = {"isogclr": {}, "mochi": {"weight": 0.5}, "m3col": {"weight": 0.5}, "ctvis": {"weight": 0.5}}
RAMP = {"first": 0.0, "last": 1.0, "begin": 0.2, "end": 0.6}
FORMS = {"byolip": {"weight": 0.5}, "cl2l": {"weight": 0.5}, "swav": {"weight": 0.2}}

# name: (processes, what the config says beyond EVERY)
RUNS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (1, {"patch_dropout": 0.25}),
    "two processes": (2, {"patch_dropout": 0.25}),
    "teacher and views": (1, {"objectives": TEACHER, "data": {"views": 2}}),
    "teacher and views, two": (2, {"objectives": TEACHER, "data": {"views": 2}}),
    "captions": (1, {"objectives": {"caption": {}, "groco": {"k": 4}}, "model": {"captioner": {"layers": 1}},
                     "data": {"caption": {"txt": 0.7, "json:name": 0.3}, "edits": {"probability": 0.3}}}),
    "text views": (1, {"objectives": FORMS, "data": {"views": 2, "text_views": 2}}),
    "clusters and classes": (1, {"objectives": CLASSES, "data": {"clusters": "clusters", "label": "cls",
                                                                 "weight": "json:weight"}}),
    "clusters, pure, two": (2, {"objectives": CLASSES, "data": {"clusters": "clusters", "label": "cls",
                                                                "pure": ["stage0"]}}),
    "micro-batches": (1, {"objectives": STATE | TEACHER, "data": {"views": 2}, "micro_batch": 16,
                          "activation_checkpointing": True}),
    "micro-batches, two": (2, {"objectives": STATE, "micro_batch": 8, "optim": {"kind": "muon"}}),
    "wscol": (1, {"objectives": {"wscol": {}}, "data": {"views": 1}}),
    "heads and ramps": (1, {"objectives": {"siglip": {}, "soft": {"use": "cwcl"}, "cwcl_text": {}, "dclw": {},
                                           "dcl": {"head": {"use": "mlp"}, "weight": RAMP}},
                            "lock": {"image": 1}, "optim": {"layer_decay": 0.8}, "data": {"bucket": True}}),
}  # fmt: skip


@contextlib.contextmanager
def tree(commit: str, folder: Path) -> Iterator[Path]:
    """Yield a worktree of the commit while the context lasts; a folder is itself."""
    if Path(commit).is_dir():
        yield Path(commit).resolve()
        return
    git = ["git", "-C", str(peers.ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def prepare(source: Path, folder: Path) -> None:
    """Write the first shards of picto anew, with a class and a weight for each sample, and labels beside them."""
    found = sorted(source.glob("train-*.tar"))[:SHARDS]
    if len(found) < SHARDS:
        raise SystemExit(f"{source}: no train-*.tar of picto; say where they are with --data")
    folder.mkdir()
    rng = np.random.default_rng(0)
    for shard in found:
        rows = 0
        with tarfile.open(shard) as old, tarfile.open(folder / shard.name, "w") as new:
            for info in old:
                data = old.extractfile(info).read()  # type: ignore[union-attr]
                if info.name.endswith(".json"):
                    facts = json.loads(data)
                    data = json.dumps(facts | {"weight": 0.5 + len(facts["tags"]) % 4 / 4}).encode()
                    put(new, info.name.replace(".json", ".cls"), str(len(facts["group"]) % 10).encode())
                    rows += 1
                put(new, info.name, data)
        label(folder / shard.name, rng, rows)


def put(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a member."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def label(shard: Path, rng: np.random.Generator, rows: int) -> None:
    """Write cluster labels beside a shard, as cbe6e2c has them: the four nearest of 30 clusters, and a coarser kind."""
    labels = rng.integers(0, 30, (rows, 4), dtype=np.int32)
    for name, values, count in (("clusters", labels, 30), ("stage0", labels[:, :1] % 2, 2)):
        np.save(f"{shard}.{name}.npy", np.ascontiguousarray(values))
        (shard.parent / f"{name}.clusters.json").write_text(json.dumps({"clusters": count}))


def python(where: Path, *arguments: str, log: Path | None = None) -> None:
    """Run Python with the packages of a tree, on one thread, offline; end the benchmark if it fails."""
    own = {"PYTHONPATH": str(where), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", *arguments]
    done = subprocess.run(command, env={**os.environ, **own}, text=True, capture_output=True, cwd=where)
    if log:
        log.write_text(done.stdout + done.stderr)
    if done.returncode:
        raise SystemExit(f"{where}: {' '.join(arguments[:6])} failed:\n{(done.stdout + done.stderr)[-3000:]}")


def train(where: Path, name: str, shards: Path, out: Path) -> None:
    """Train one of RUNS with the code of a tree, into the folder `out`."""
    processes, own = RUNS[name]
    config = merged(EVERY, own)
    config["objectives"] = {"clip": {}, **config.get("objectives", {})}
    urls = f"{shards}/train-{{00000..{SHARDS - 1:05d}}}.tar"
    config["data"] = {"train": urls, "batch": 64, "workers": 1, **config.get("data", {})}
    file = out.with_suffix(".yaml")
    file.write_text(json.dumps({"base": str(where / "configs" / "base.yaml"), "out": str(out), **config}))
    port = str(20000 + os.getpid() % 20000)
    launch = (
        [
            "-m",
            "accelerate.commands.accelerate_cli",
            "launch",
            "--multi_gpu",
            "--num_processes",
            str(processes),
            "--num_machines",
            "1",
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
            "--main_process_port",
            port,
        ]
        if processes > 1
        else []
    )
    python(where, *launch, "-m", "mmclr.train", str(file), log=out.with_suffix(".txt"))


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `under` with what `over` says, inside nested values too."""
    both = {
        k: merged(under[k], v) if isinstance(under.get(k), dict) and isinstance(v, dict) else v for k, v in over.items()
    }
    return {**under, **both}


def reason(run: str, difference: Difference) -> str:
    """Return why something differs on purpose, or ""."""
    fits = (
        why
        for pattern, why, most in MEANT
        if re.search(pattern, f"{run} {difference.where}") and difference.share <= most
    )
    return next(fits, "")


def tell(run: str, seconds: float, found: list[Difference], numbers: int, tensors: int) -> int:
    """Print a row of the table, and what differs below it; return how many differ without a reason."""
    bad = [d for d in found if not reason(run, d)]
    meant = f", {len(found) - len(bad)} on purpose" * (len(found) > len(bad))
    said = f"{len(bad)} differ{meant}" if bad else f"the same{meant}"
    print(f"{run:<26} {numbers:>8} {tensors:>8}  {seconds:>5.0f} s  {said}", flush=True)
    for why in sorted({reason(run, d) for d in found} - {""}):
        print(f"    on purpose: {why}")
    for difference in bad[:6]:
        print(f"    {difference.where}: {difference.how}")
    return len(bad)


def go_on(new: Path, name: str, shards: Path, before: Path, out: Path) -> None:
    """Go on with the new code from the old run's checkpoint of the middle."""
    middle = f"step-{STEPS // 2:08d}"
    (out / "checkpoints").mkdir(parents=True)
    shutil.copytree(before / "checkpoints" / middle, out / "checkpoints" / middle)
    train(new, name, shards, out)


def compare(old: Path, new: Path, shards: Path, names: list[str], folder: Path) -> dict[str, int]:
    """Run and compare; return counts."""
    total = {"runs": 0, "numbers": 0, "tensors": 0, "differ": 0}
    print(f"{'run':<26} {'numbers':>8} {'tensors':>8}  {'time':>7}")
    for name in names:
        plain, began = re.sub(r"\W+", "-", name), time.monotonic()
        one, two, three = (folder / f"{which}-{plain}" for which in ("old", "new", "on"))
        train(old, name, shards, one)
        train(new, name, shards, two)
        again = RUNS[name][0] == 1
        if again:
            go_on(new, name, shards, one, three)
        for label, other, since in ((name, two, 0), (f"{name}, gone on", three, STEPS // 2))[: 1 + again]:
            found, numbers, tensors = differences(one, other, since)
            bad = tell(label, time.monotonic() - began, found, numbers, tensors)
            for what, count in (("runs", 1), ("numbers", numbers), ("tensors", tensors), ("differ", bad)):
                total[what] += count
    return total


def main() -> None:
    """Compare; end with status 1 if something differs without a reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", nargs="?", default=OLD)
    parser.add_argument("new", nargs="?", default="HEAD")
    parser.add_argument("--data", type=Path, default=peers.PICTO, help="folder with picto's train-*.tar")
    parser.add_argument("--runs", nargs="*", choices=RUNS, default=list(RUNS), metavar="NAME")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        old, new = (
            stack.enter_context(tree(commit, folder / f"tree-{i}")) for i, commit in enumerate((args.old, args.new))
        )
        prepare(args.data, folder / "shards")
        total = compare(old, new, folder / "shards", args.runs, folder)
    print("\nThe same for both:")
    for what, why in FIXED.items():
        print(f"- {what}: {why}")
    print(json.dumps(total))
    sys.exit(1 if total["differ"] else 0)


if __name__ == "__main__":
    main()
