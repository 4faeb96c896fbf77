"""Checkpoint folders: written beside their place and renamed, so that what has its name is whole.

    RUN/checkpoints/step-00000500/
        config.yaml      the resolved config of the run
        model/           the model's folder with the tokenizer (average/ likewise: the averaged weights)
        state/           objectives.safetensors; ema.safetensors, a teacher; optimizer.safetensors, by parameter, whole
        position.json    step, the loader's state, counts of what was skipped, the loss scale, the best so far

Nothing in it depends on how many processes wrote it. There is no random state to save: every step seeds its own from
(seed, step).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from mmclr.data.text import Tokenizer
from mmclr.errors import UserError
from mmclr.models.two_tower import TwoTower

PARTIAL = ".partial-"


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint in memory: copies, so that it can be written while the run goes on."""

    config: str
    models: Mapping[str, TwoTower]
    tokenizer: Tokenizer
    objectives: Mapping[str, Tensor]
    ema: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    position: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """Write the folder; it has its name only once all of it is on the disk."""
        partial = folder.with_name(PARTIAL + folder.name)
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "state").mkdir(parents=True)
        (partial / "config.yaml").write_text(self.config, encoding="utf-8")
        for name, model in self.models.items():
            model.save(partial / name)
            self.tokenizer.save(partial / name)
        save_file(dict(self.objectives), partial / "state" / "objectives.safetensors")
        if self.ema:
            save_file(dict(self.ema), partial / "state" / "ema.safetensors")
        save_file(dict(self.optimizer), partial / "state" / "optimizer.safetensors")
        (partial / "position.json").write_text(json.dumps(self.position, indent=2))
        _sync(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        _sync(folder.parent, deep=False)


def folder_of(out: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` steps."""
    return out / "checkpoints" / f"step-{step:08d}"


def latest(out: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, or None."""
    found = sorted((out / "checkpoints").glob("step-*"))
    return next((path for path in reversed(found) if (path / "position.json").is_file()), None)


def find(path: str | Path) -> Path:
    """Return the checkpoint that `path` is, or the newest one of the run that it is."""
    path = Path(path)
    newest = path if (path / "position.json").is_file() else latest(path)
    if newest is None:
        raise UserError(f"{path}: no checkpoint there; name a run's folder or one of its checkpoints/step-*")
    return newest


def read_position(folder: Path) -> dict[str, Any]:
    """Return what position.json holds."""
    position: dict[str, Any] = json.loads((folder / "position.json").read_text())
    return position


def prune(out: Path, keep: int, pinned: int | None = None) -> None:
    """Delete all checkpoints but the `keep` newest (0: keep all) and the one after `pinned` steps."""
    kept = folder_of(out, pinned) if pinned is not None else None
    for old in sorted((out / "checkpoints").glob("step-*"))[:-keep] if keep else []:
        if old != kept:
            shutil.rmtree(old)


def sweep(out: Path) -> list[Path]:
    """Delete what a killed save left behind; return what it was."""
    left = sorted((out / "checkpoints").glob(PARTIAL + "*"))
    for path in left:
        shutil.rmtree(path)
    return left


def _sync(folder: Path, deep: bool = True) -> None:
    """Flush a folder and its files to the disk: a rename must not outrun what it names."""
    for path in [*(folder.rglob("*") if deep else ()), folder]:
        if path.is_symlink() or not os.access(path, os.R_OK):
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
