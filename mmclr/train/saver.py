"""When a run is saved, and where: in the background, on this machine's disk and on remote storage."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from mmclr import parallel
from mmclr.config import nearest
from mmclr.errors import UserError
from mmclr.train import checkpoint
from mmclr.train.checkpoint import Snapshot
from mmclr.train.remote import Remote
from mmclr.train.settings import SaveConfig


class Saver:
    """Reads and writes the checkpoints of one run. All ranks must make the same calls."""

    def __init__(self, config: SaveConfig, out: Path, accelerator: Accelerator) -> None:
        self.config, self.out, self.accelerator = config, out, accelerator
        self.remote = Remote(config.remote) if config.remote else None
        self.best: dict[str, Any] = {}  # step, value of config.best
        self.notes: list[str] = []  # to be said when there is a display
        self._missing = False  # the metric of config.best was looked for in vain, and that was said
        self._saved = time.monotonic()
        self._writing: threading.Thread | None = None
        self._failed: Exception | None = None

    def source(self, resume: str) -> Path | None:
        """Return the checkpoint to go on from, the same on every rank; None to begin anew."""
        if self.accelerator.is_main_process:
            left = checkpoint.sweep(self.out)
            self.notes += [f"{path.name}: a checkpoint that was not finished; deleted" for path in left]
        self.accelerator.wait_for_everyone()
        if resume == "never":
            return None
        if resume == "auto" and self.remote is not None and self.accelerator.is_local_main_process:
            self._pull(self.remote)
        self.accelerator.wait_for_everyone()
        passed: dict[Path, str] = {}
        found = checkpoint.latest(self.out, passed) if resume == "auto" else checkpoint.find(resume)
        self.notes += [f"{path}: this checkpoint is not whole ({wrong}); passed over" for path, wrong in passed.items()]
        seen = parallel.say(found.name if found else "none")
        if len(set(seen)) > 1:
            raise UserError(
                f"resume: the processes see different checkpoints in {self.out} ({', '.join(sorted(set(seen)))}): put "
                "out on storage that all machines share, or set save.remote"
            )
        return found

    def begin(self, step: int) -> None:
        """Take note that the run goes on from `step`: what is saved there of later ones is of an earlier attempt."""
        if self.accelerator.is_main_process and self.remote is not None:
            with self._talking(self.remote):
                self._note_aside(self.remote.set_aside(step), step)
        for first in (True, False):  # the main process first: other machines may share its disk
            if self.accelerator.is_local_main_process and self.accelerator.is_main_process == first:
                self._note_aside(checkpoint.set_aside(self.out, step), step)
            self.accelerator.wait_for_everyone()

    def due(self, step: int) -> bool:
        """Whether to save now, decided together: clocks differ between ranks."""
        c = self.config
        if c.every_steps and step % c.every_steps == 0:
            return True
        return bool(c.every_minutes) and parallel.agree(time.monotonic() - self._saved > 60 * c.every_minutes)

    def improves(self, step: int, metrics: Mapping[str, float | None]) -> bool:
        """Take in what evaluations measured; say whether it is the best so far by `config.best`."""
        value = metrics.get(self.config.best.removeprefix("-"))
        if value is None:
            self._note_missing(metrics)
            return False
        sign, metric = -1 if self.config.best.startswith("-") else 1, self.config.best.removeprefix("-")
        if self.best.get("metric") == metric and sign * value <= sign * self.best["value"]:
            return False
        self.best = {"metric": metric, "step": step, "value": value}
        return True

    def _note_missing(self, metrics: Mapping[str, float | None]) -> None:
        """Say once that an evaluation has no such metric as config.best names."""
        best = self.config.best.removeprefix("-")
        made = [name for name in metrics if name.partition("/")[0] == best.partition("/")[0]]
        if made and best not in metrics and not self._missing:
            self._missing = True
            self.notes.append(f"save.best: no checkpoint is kept as the best, there is no {best}{nearest(best, made)}")

    def save(self, step: int, take: Callable[[], Snapshot | None]) -> Path:
        """Take a snapshot and write it in the background, after the one before it is written."""
        self.wait()
        snapshot = take()
        self._saved = time.monotonic()
        folder = checkpoint.folder_of(self.out, step)
        if snapshot is not None:
            self._writing = threading.Thread(target=self._write, args=(snapshot, folder), name="checkpoint")
            self._writing.start()
        return folder

    def wait(self) -> None:
        """Return when everything is on the disk; raise what went wrong there."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._failed is not None:
            raise UserError(f"{self.out}: a checkpoint cannot be written: {self._failed}") from self._failed

    def _write(self, snapshot: Snapshot, folder: Path) -> None:
        keep, pinned = self.config.keep, snapshot.position["best"].get("step")
        try:
            snapshot.write(folder)
            checkpoint.prune(self.out, keep, pinned)
            if pinned is not None:
                beside = self.out / ".best.json"
                beside.write_text(json.dumps(snapshot.position["best"]))
                beside.replace(self.out / "best.json")
        except Exception as error:
            self._failed = error
            return
        if self.remote is not None:
            self._push(self.remote, folder, keep, pinned)

    def _push(self, remote: Remote, folder: Path, keep: int, pinned: int | None) -> None:
        """Copy to remote storage. That it fails ends nothing: the checkpoint is on the disk, and the next will come."""
        try:
            remote.push(folder, keep, pinned)
            for name in ("log.jsonl", "best.json"):
                if (self.out / name).is_file():
                    remote.put(self.out / name, name)
        except Exception as error:
            self.notes.append(f"{folder.name} could not be copied to {remote.url}: {error}")

    def _pull(self, remote: Remote) -> None:
        """Copy the newest whole checkpoint from remote storage, unless there is none that is newer than those here."""
        here = checkpoint.latest(self.out)
        with self._talking(remote):
            for step in reversed(remote.steps()):
                if here is not None and here >= checkpoint.folder_of(self.out, step):
                    return
                wrong = remote.pull(self.out, step)
                if not wrong:
                    self.notes.append(f"step {step}: copied from {remote.url}")
                    return
                self.notes.append(f"step {step} in {remote.url}: this checkpoint is not whole ({wrong}); passed over")

    def _note_aside(self, aside: Path | str | None, step: int) -> None:
        if aside:
            self.notes.append(f"what an earlier attempt saved after step {step} is in {aside} now")

    @contextlib.contextmanager
    def _talking(self, remote: Remote) -> Iterator[None]:
        """Say in one sentence that the storage does not answer: what lies there decides where the run begins."""
        try:
            yield
        except Exception as error:  # every storage has errors of its own
            raise UserError(f"save.remote: {remote.url}: {error}") from error
