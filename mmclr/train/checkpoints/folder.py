"""Checkpoint folders: written beside their place and renamed, so that what has its name is whole.

    RUN/checkpoints/step-00000500/
        config.yaml      the resolved config of the run
        model/           the model's folder with the tokenizer (average/ likewise: the averaged weights)
        state/           objectives.safetensors; ema.safetensors, a teacher; providers.safetensors, what `providers` of
                         the config made; optimizer.safetensors, by parameter, whole
        position.json    step, the loader's state, counts of what was skipped, the loss scale, the best so far, and the
                         size and checksum of every other file
    RUN/checkpoints/aside-1/
        step-00000800/   what an earlier attempt wrote after the step from which a later one went on

Nothing in it depends on how many processes wrote it. There is no random state to save: every step seeds its own from
(seed, step).
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from mmclr.data.samples.text import Tokenizer
from mmclr.errors import UserError
from mmclr.models.two_tower import TwoTower
from mmclr.storage import written
from mmclr.storage.checkpoints import POSITION, all_of, fault, latest, read_position, refuse, seal
from mmclr.storage.whole_file import sync_folder
from mmclr.train.logging.log import step_of

__all__ = ["POSITION", "Snapshot", "all_of", "fault", "find", "latest", "read_position"]

PARTIAL, REPLACED = ".partial-", ".replaced-"
PARTS = ("model", "average", "state", "config.yaml", POSITION)


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
    providers: Mapping[str, Tensor] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the folder; it has its name only once all of it is on the disk. What fails leaves nothing behind."""
        partial = folder.with_name(PARTIAL + folder.name)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            self._fill(partial)
            _sync(partial)
            put_in_place(partial, folder)
        except Exception:
            shutil.rmtree(partial, ignore_errors=True)  # on a full disk it would keep the next from being written
            raise

    def bytes(self) -> int:
        """Return about how much room it takes."""
        tensors = [value for model in self.models.values() for value in model.state_dict().values()]
        tensors += [*self.objectives.values(), *self.ema.values()]
        tensors += [*self.providers.values(), *self.optimizer.values()]
        return sum(value.numel() * value.element_size() for value in tensors)

    def _fill(self, partial: Path) -> None:
        (partial / "state").mkdir(parents=True)
        (partial / "config.yaml").write_text(self.config, encoding="utf-8")
        for name, model in self.models.items():
            model.save(partial / name)
            self.tokenizer.save(partial / name)
        save_file(dict(self.objectives), partial / "state" / "objectives.safetensors")
        for name, tensors in (("ema", self.ema), ("providers", self.providers)):
            if tensors:
                save_file(dict(tensors), partial / "state" / f"{name}.safetensors")
        save_file(dict(self.optimizer), partial / "state" / "optimizer.safetensors")
        (partial / POSITION).write_text(seal(self.position, partial), encoding="utf-8")


def put_in_place(partial: Path, folder: Path) -> None:
    """Give a whole folder its name. One of that name stays until then, and `sweep` puts it back after a kill."""
    replaced = folder.with_name(REPLACED + folder.name)
    discard(replaced, folder if folder.exists() else None)
    if folder.exists():
        folder.rename(replaced)
    try:
        partial.rename(folder)
    except OSError:
        if replaced.exists():
            replaced.rename(folder)
        raise
    sync_folder(folder.parent)
    discard(replaced, folder)


def discard(folder: Path, heir: Path | None = None) -> None:
    """Remove what a checkpoint is made of; what somebody else put there stays, or moves to the folder `heir`."""
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() or p.is_symlink()}
    try:
        listed = {POSITION, *read_position(folder)["files"]}
    except (OSError, ValueError, KeyError, TypeError):  # not whole, or written before there was a list
        listed = {name for name in there if name.partition("/")[0] in PARTS}
    if heir is not None:
        for name in there - listed:
            (heir / name).parent.mkdir(parents=True, exist_ok=True)
            if not (heir / name).exists():
                (folder / name).rename(heir / name)
    written.remove_listed(folder, [POSITION, *(listed & there)])  # position.json first: what lacks it is not whole


def folder_of(out: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` steps."""
    return out / "checkpoints" / f"step-{step:08d}"


def find(path: str | Path) -> Path:
    """Return the checkpoint that `path` is, or the newest one of the run that it is."""
    path = Path(path)
    if (path / POSITION).is_file():
        refuse(path)
        return path
    newest = latest(path)
    if newest is None:
        raise UserError(f"{path}: no checkpoint there; name a run's folder or one of its checkpoints/step-*")
    return newest


def prune(out: Path, keep: int, pinned: int | None = None) -> None:
    """Delete all checkpoints but the `keep` newest (0: keep all) and the one after `pinned` steps."""
    kept = folder_of(out, pinned) if pinned is not None else None
    whole = [path for path in all_of(out) if (path / POSITION).is_file()]
    for old in whole[:-keep] if keep else []:
        if old != kept:
            discard(old)


def sweep(out: Path) -> list[Path]:
    """Put back what a killed save was about to replace, delete what it had begun; return that."""
    for path in sorted((out / "checkpoints").glob(REPLACED + "step-*")):
        folder = path.with_name(path.name.removeprefix(REPLACED))
        if folder.exists():
            discard(path, folder)
        else:
            path.rename(folder)
    left = sorted((out / "checkpoints").glob(PARTIAL + "step-*"))
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
    for begun in filter(None, read):
        if any(folder.resolve() in (Path(begun).resolve(), *Path(begun).resolve().parents) for folder in later):
            raise UserError(
                f"{begun}: the run begins before this checkpoint of its own folder, which would be moved aside from "
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


def _sync(folder: Path) -> None:
    """Flush a folder and its files to the disk: a rename must not outrun what it names."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        elif not path.is_symlink() and os.access(path, os.R_OK):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    sync_folder(folder)
