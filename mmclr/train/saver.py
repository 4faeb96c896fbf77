"""When a run is saved, and where: in the background, on this machine's disk and on remote storage."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from mmclr import parallel
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
        found = checkpoint.latest(self.out) if resume == "auto" else checkpoint.find(resume)
        seen = parallel.say(found.name if found else "none")
        if len(set(seen)) > 1:
            raise UserError(
                f"resume: the processes see different checkpoints in {self.out} ({', '.join(sorted(set(seen)))}): put "
                "out on storage that all machines share, or set save.remote"
            )
        return found

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
            return False
        sign = -1 if self.config.best.startswith("-") else 1
        if self.best and sign * value <= sign * self.best["value"]:
            return False
        self.best = {"metric": self.config.best.removeprefix("-"), "step": step, "value": value}
        return True

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
                (self.out / "best.json").write_text(json.dumps(snapshot.position["best"]))
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
        here, there = checkpoint.latest(self.out), remote.steps()
        if there and (here is None or here < checkpoint.folder_of(self.out, there[-1])):
            remote.pull(self.out, there[-1])
            self.notes.append(f"step {there[-1]}: copied from {remote.url}")
