"""Checkpoint folders: written beside their place and renamed, so that what has its name is whole.

    RUN/checkpoints/step-00000500/
        config.yaml      the resolved config of the run
        model/           a transformers CLIP folder with the tokenizer (average/ likewise: the averaged weights)
        state/           objectives.safetensors, optimizer.pt
        position.json    step, the loader's state, counts of what was skipped

There is no random state to save: every step seeds its own from (seed, step).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from mmclr.data.text import Tokenizer
from mmclr.errors import UserError
from mmclr.models.two_tower import TwoTower, load_weights, read_weights

PARTIAL = ".partial-"


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


def save(
    folder: Path,
    *,
    config: str,
    models: Mapping[str, TwoTower],
    tokenizer: Tokenizer,
    objectives: nn.Module,
    optimizer: Mapping[str, Any],
    position: Mapping[str, Any],
    keep: int,
) -> None:
    """Write one checkpoint, then delete all but the `keep` newest (0: keep all)."""
    partial = folder.with_name(PARTIAL + folder.name)
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "state").mkdir(parents=True)
    (partial / "config.yaml").write_text(config, encoding="utf-8")
    for name, model in models.items():
        model.save(partial / name)
        tokenizer.save(partial / name)
    state = {name: value.detach().cpu().contiguous() for name, value in objectives.state_dict().items()}
    save_file(state, partial / "state" / "objectives.safetensors")
    torch.save(dict(optimizer), partial / "state" / "optimizer.pt")
    (partial / "position.json").write_text(json.dumps(position, indent=2))
    _sync(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    _sync(folder.parent)
    for old in sorted(folder.parent.glob("step-*"))[:-keep] if keep else []:
        shutil.rmtree(old)


def load(
    folder: Path, *, models: Mapping[str, TwoTower], objectives: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Fill all parts from a checkpoint and return its position."""
    for name, model in models.items():
        if not (folder / name).is_dir():
            raise UserError(f"{folder}: it has no {name}/; it was saved by a run with another config (average.decay?)")
        load_weights(model, read_weights(folder / name / "model.safetensors"), str(folder / name))
    load_weights(objectives, read_weights(folder / "state" / "objectives.safetensors"), f"{folder}/state")
    state = torch.load(folder / "state" / "optimizer.pt", map_location="cpu", weights_only=True)
    try:
        optimizer.load_state_dict(state)
    except ValueError as error:
        raise UserError(f"{folder}: its optimizer state is of another run ({error}); set resume: never") from None
    position: dict[str, Any] = json.loads((folder / "position.json").read_text())
    return position


def sweep(out: Path) -> list[Path]:
    """Delete what a killed save left behind; return what it was."""
    left = sorted((out / "checkpoints").glob(PARTIAL + "*"))
    for path in left:
        shutil.rmtree(path)
    return left


def _sync(folder: Path) -> None:
    """Flush a folder and its files to the disk: a rename must not outrun what it names."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_symlink() or not os.access(path, os.R_OK):
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
