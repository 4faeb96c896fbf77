"""Checkpoint folders: written beside their place and renamed, so that what has its name is whole.

    RUN/checkpoints/step-00000500/
        config.yaml      the resolved config of the run
        model/           the model's folder with the tokenizer (average/ likewise: the averaged weights)
        state/           objectives.safetensors; ema.safetensors, a teacher; optimizer.safetensors, by parameter, whole
        position.json    step, the loader's state, counts of what was skipped, the loss scale, the best so far, and the
                         size of every other file
    RUN/checkpoints/aside-1/
        step-00000800/   what an earlier attempt wrote after the step from which a later one went on

Nothing in it depends on how many processes wrote it. There is no random state to save: every step seeds its own from
(seed, step).
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from mmclr.data.text import Tokenizer
from mmclr.errors import UserError
from mmclr.models.two_tower import TwoTower
from mmclr.train.log import step_of

PARTIAL, REPLACED = ".partial-", ".replaced-"
POSITION = "position.json"


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
        files = {p.relative_to(partial).as_posix(): p.stat().st_size for p in sorted(partial.rglob("*")) if p.is_file()}
        (partial / POSITION).write_text(json.dumps({**self.position, "files": files}, indent=2))
        _sync(partial)
        put_in_place(partial, folder)


def put_in_place(partial: Path, folder: Path) -> None:
    """Give a whole folder its name. One of that name stays until then, and `sweep` puts it back after a kill."""
    replaced = folder.with_name(REPLACED + folder.name)
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    _sync(folder.parent, deep=False)
    shutil.rmtree(replaced, ignore_errors=True)


def folder_of(out: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` steps."""
    return out / "checkpoints" / f"step-{step:08d}"


def all_of(out: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, whole or not, oldest first."""
    return sorted((out / "checkpoints").glob("step-*"))


def latest(out: Path, passed: dict[Path, str] | None = None) -> Path | None:
    """Return the newest whole checkpoint of a run, or None; `passed` takes newer ones with what is wrong with them."""
    for path in reversed(all_of(out)):
        wrong = fault(path)
        if not wrong:
            return path
        if passed is not None:
            passed[path] = wrong
    return None


def find(path: str | Path) -> Path:
    """Return the checkpoint that `path` is, or the newest one of the run that it is."""
    path = Path(path)
    if (path / POSITION).is_file():
        if wrong := fault(path):
            raise UserError(f"{path}: this checkpoint is not whole ({wrong}); name another, or the run's folder")
        return path
    newest = latest(path)
    if newest is None:
        raise UserError(f"{path}: no checkpoint there; name a run's folder or one of its checkpoints/step-*")
    return newest


def fault(folder: Path) -> str:
    """Say why a checkpoint is not whole; nothing if it is. Files are known by their sizes, their bytes are not read."""
    try:
        position = read_position(folder)
    except (FileNotFoundError, NotADirectoryError):
        return f"{POSITION} is missing"
    except ValueError:
        return f"{POSITION} is damaged"
    for name, size in position.get("files", {}).items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} of {size:,} bytes"
    return ""


def read_position(folder: Path) -> dict[str, Any]:
    """Return what position.json holds. Raises ValueError where it holds something else."""
    position = json.loads((folder / POSITION).read_text())
    if not isinstance(position, dict) or not isinstance(position.get("step"), int):
        raise ValueError(f"{folder / POSITION}: no step in it")
    return position


def prune(out: Path, keep: int, pinned: int | None = None) -> None:
    """Delete all checkpoints but the `keep` newest (0: keep all) and the one after `pinned` steps."""
    kept = folder_of(out, pinned) if pinned is not None else None
    whole = [path for path in all_of(out) if (path / POSITION).is_file()]
    for old in whole[:-keep] if keep else []:
        if old != kept:
            shutil.rmtree(old)


def sweep(out: Path) -> list[Path]:
    """Put back what a killed save was about to replace, delete what it had begun; return that."""
    for path in sorted((out / "checkpoints").glob(REPLACED + "*")):
        folder = path.with_name(path.name.removeprefix(REPLACED))
        if folder.exists():
            shutil.rmtree(path)
        else:
            path.rename(folder)
    left = sorted((out / "checkpoints").glob(PARTIAL + "*"))
    for path in left:
        shutil.rmtree(path)
    return left


def set_aside(out: Path, after: int, read: Iterable[str] = ()) -> Path | None:
    """Move the checkpoints of later steps than `after` into a folder of their own; return it if there are any.

    Whoever goes on from an earlier step begins another run there: later checkpoints are none of its past, and it would
    else be continued from them, or lose its own among them. The log and best.json of then lie beside them. Raises
    UserError where one of them is among the paths that the run will `read` again when it is started again.
    """
    later = [path for path in all_of(out) if path.name > folder_of(out, after).name]
    if not later:
        return None
    for path in filter(None, read):
        if any(folder.resolve() in (Path(path).resolve(), *Path(path).resolve().parents) for folder in later):
            raise UserError(
                f"{path}: the run begins before this checkpoint of its own folder, which would be moved aside from "
                "under it; set out to another folder"
            )
    aside = next(path for n in itertools.count(1) if not (path := out / "checkpoints" / f"aside-{n}").exists())
    aside.mkdir()
    if (out / "log.jsonl").is_file():
        shutil.copy2(out / "log.jsonl", aside)
    best = out / "best.json"
    if best.is_file() and step_of(best.read_text()) > after:
        best.rename(aside / best.name)
    for path in later:  # oldest first: if this is cut short, the newest is still the newest
        path.rename(aside / path.name)
    return aside


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
