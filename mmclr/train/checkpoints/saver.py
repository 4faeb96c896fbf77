"""Saving a run: in the background, on this machine's disk and on remote storage."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from mmclr import parallel
from mmclr.config import nearest
from mmclr.errors import UserError
from mmclr.storage import written
from mmclr.train.checkpoints import folder as checkpoint
from mmclr.train.checkpoints import ownership
from mmclr.train.checkpoints.folder import Snapshot
from mmclr.train.checkpoints.remote import Remote
from mmclr.train.run import SaveConfig

RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


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
        if any(int(os.environ.get(name) or 0) > 0 for name in RESTARTS):
            resume = "auto"  # the launcher's doing, not the user's: what this run has done is not to be done again
        if resume == "never":
            return None
        if resume == "auto" and self.remote is not None:
            for _ in self._machines():
                self._pull(self.remote)
        return self._newest() if resume == "auto" else self._same(checkpoint.find(resume))

    def begin(self, step: int, read: Iterable[str] = ()) -> None:
        """Take note that the run goes on from `step`: what is saved there of later ones is of an earlier attempt.

        `read` are paths that must stay where they are.
        """
        if self.accelerator.is_main_process and self.remote is not None:
            with self._talking(self.remote):
                self._note_aside(self.remote.set_aside(step), step)
        for _ in self._machines():
            self._note_aside(checkpoint.set_aside(self.out, step, read), step)

    def remember(self, best: dict[str, Any]) -> None:
        """Take in the best of the checkpoint that the run goes on from, if it is still there."""
        there = bool(best) and checkpoint.folder_of(self.out, best["step"]).is_dir()
        if best and self.remote is not None and self.accelerator.is_main_process and not there:
            with self._talking(self.remote):
                there = best["step"] in self.remote.steps()
        self.best = best if parallel.agree(there) else {}

    def due(self, step: int) -> bool:
        """Whether to save now, decided together: clocks differ between ranks."""
        c = self.config
        if c.every_steps and step % c.every_steps == 0:
            return True
        return bool(c.every_minutes) and parallel.agree(time.monotonic() - self._saved > 60 * c.every_minutes)

    def improves(self, step: int, metrics: Mapping[str, float | None]) -> bool:
        """Take in what evaluations measured; say whether it is the best so far by `config.best`."""
        value = metrics.get(self.config.best.removeprefix("-"))
        if value is None or not math.isfinite(value):
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

    def _newest(self) -> Path | None:
        """Return the newest whole checkpoint that all machines have; None where none has any.

        All are known by the sizes of their files; of the one that is taken the bytes are compared, once per machine.
        """
        passed = {path: wrong for path in checkpoint.all_of(self.out) if (wrong := checkpoint.fault(path, read=()))}
        while True:
            whole = [path for path in checkpoint.all_of(self.out) if path not in passed]
            everywhere = [set(names.split()) for names in parallel.say(" ".join(path.name for path in whole))]
            told = [f"{path}: this checkpoint is not whole ({passed[path]}); passed over" for path in sorted(passed)]
            if not any(everywhere):
                if passed:
                    raise UserError(f"{told[-1].rpartition(';')[0]}, nor is any other; resume=never begins anew")
                return None
            common, newest = set.intersection(*everywhere), whole[-1] if whole else None
            if not common:
                return self._same(newest)
            found = checkpoint.folder_of(self.out, max(int(name.removeprefix("step-")) for name in common))
            wrong = checkpoint.fault(found) if self.accelerator.is_local_main_process else ""
            if not parallel.agree(bool(wrong)):
                break
            passed[found] = next(text for text in parallel.say(wrong) if text)
        self.notes += [line for path, line in zip(sorted(passed), told) if path > found]
        if found != newest:
            self.notes.append(f"{newest}: not on every machine; passed over")
        return found

    def _same(self, found: Path | None) -> Path | None:
        """Return it, if all ranks found the same."""
        seen = set(parallel.say(found.name if found else "none"))
        if len(seen) > 1:
            raise UserError(
                f"resume: the processes see different checkpoints in {self.out} ({', '.join(sorted(seen))}): put out "
                "on storage that all machines share, set save.remote, or copy one of them to every machine"
            )
        return found

    def _machines(self) -> Iterator[None]:
        """Let one process of each machine do something: the main process first, others may share its disk."""
        for first in (True, False):
            if self.accelerator.is_local_main_process and self.accelerator.is_main_process == first:
                yield
            self.accelerator.wait_for_everyone()

    def save(self, step: int, take: Callable[[], Snapshot | None]) -> Path:
        """Take a snapshot and write it in the background, after the one before it is written.

        Where it might not find room the run waits, so that no step is taken after one that could not be saved.
        """
        self.wait()
        snapshot = take()
        self._saved = time.monotonic()
        folder = checkpoint.folder_of(self.out, step)
        if snapshot is not None:
            self._writing = threading.Thread(target=self._write, args=(snapshot, folder), name="checkpoint")
            self._writing.start()
            if self._scarce(snapshot):
                self._writing.join()
        return folder

    @property
    def failed(self) -> bool:
        """Whether this process could not write a checkpoint: the run is to end now, `wait` says why."""
        return self._failed is not None

    def wait(self) -> None:
        """Return when everything is on the disk; raise on all ranks what went wrong there."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if not parallel.agree(self.failed):
            return
        why = next(text for text in parallel.say("" if self._failed is None else _why(self._failed)) if text)
        raise UserError(
            f"{self.out}: a checkpoint cannot be written: {why}; the run has stopped, and what it saved before is "
            "whole: make room or give access there, then the same command goes on"
        ) from self._failed

    def _scarce(self, snapshot: Snapshot) -> bool:
        """Whether the disk might be full before the snapshot is on it. What cannot be known is not scarce."""
        try:
            free = shutil.disk_usage(self.out).free
        except OSError:
            return False
        return free < 1.5 * snapshot.bytes() + (64 << 20)

    def _write(self, snapshot: Snapshot, folder: Path) -> None:
        keep, pinned = self.config.keep, snapshot.position["best"].get("step")
        try:
            snapshot.write(folder)
            checkpoint.prune(self.out, keep, pinned)
            if pinned is not None:
                best = json.dumps(snapshot.position["best"])
                written.write(self.out / "best.json", best, *ownership.BEST)
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


def _why(error: Exception) -> str:
    return str(error).strip() or type(error).__name__
