"""Write what an older commit leaves on disk, for tests that today's code reads it: made once, kept beside this file.

    git worktree add --detach /tmp/old cbe6e2c
    PYTHONPATH=/tmp/old OMP_NUM_THREADS=1 python tests/old/make.py tests/old/cbe6e2c

All is from 24 icons and a model of a few thousand weights: shards with cluster labels beside them, a tokenizer, a run
of 6 steps with the checkpoint after 4, an export, the embeddings that an evaluation kept, and its result.
"""

import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PAIRS, SHARDS = 24, 2
MODEL = {
    "preset": "icons",
    "embed": 16,
    "image": {"size": 32, "patch": 16, "width": 16, "layers": 1, "heads": 2, "mlp": 32},
    "text": {"context": 12, "width": 16, "layers": 1, "heads": 2, "mlp": 32},
}
OBJECTIVES = {
    "clip": {"head": {"use": "mlp", "hidden": 16, "out": 16}},
    "directpred": {},  # the EMA teacher
    "isogclr": {},  # state per sample
    "mlcd": {},  # clusters; weights of its own
}
RUN = {
    "steps": 6, "log_every": 1, "trackers": "none", "precision": "float32", "average": {"decay": 0.9}, "model": MODEL,
    "objectives": OBJECTIVES, "save": {"every_steps": 2, "keep": 2},
}  # fmt: skip


def mmclr(folder: Path, *arguments: str) -> None:
    """Run a command of the older commit in the folder, by relative paths: `python -m` finds no packages there."""
    command = [sys.executable, "-W", "ignore", "-m", "mmclr.cli", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)


def pack(icons: Path, folder: Path) -> None:
    """Write the first icons anew, with a class for each."""
    folder.mkdir(parents=True)
    with tarfile.open(next(iter(sorted(icons.glob("train-*.tar"))))) as old:
        members = [(info.name, old.extractfile(info).read()) for info in old.getmembers()[: 3 * PAIRS]]
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, (name, data) in enumerate(members):
                if number // 3 * SHARDS // PAIRS == shard:
                    put(tar, name, data)
                    if name.endswith(".txt"):
                        put(tar, name.replace(".txt", ".cls"), str(number % 4).encode())


def put(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a member."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def main() -> None:
    """Write the folder."""
    out = Path(sys.argv[1]).resolve()
    shutil.rmtree(out, ignore_errors=True)
    shards, data = "shards/{00000..00001}.tar", {"batch": 8, "workers": 0}
    with tempfile.TemporaryDirectory() as scratch:
        folder, config = Path(scratch), Path(scratch) / "run.yaml"
        mmclr(folder, "data", "icons", scratch)
        pack(folder, out / "shards")
        mmclr(out, "data", "tokenizer", shards, "tokenizer", "--size", "540", "--context", "12")
        run = {**RUN, "tokenizer": "tokenizer", "data": {**data, "train": shards}}
        config.write_text(json.dumps({**run, "objectives": {"clip": {}}, "out": "first"}))
        mmclr(out, "train", str(config))
        mmclr(out, "data", "cluster", shards, "--model", "first", "--k", "4", "--top", "2")
        run["data"] |= {"clusters": "clusters"}
        config.write_text(json.dumps({**run, "out": "run"}))
        mmclr(out, "train", str(config))
    mmclr(out, "export", "transformers", "run", "export")
    result = ["--cache", "cache", "--out", "result.json", "--examples", "0"]
    mmclr(out, "eval", "retrieval", "export", "--data", shards, *result)
    shutil.rmtree(out / "run" / "checkpoints" / "step-00000006")  # its losses stay in the log
    shutil.rmtree(out / "first")
    (out / "run" / ".lock").unlink()


if __name__ == "__main__":
    main()
