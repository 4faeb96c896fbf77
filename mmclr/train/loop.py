"""The loop: batches in, steps taken; logs, evaluations and checkpoints hang on its clock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmclr import parallel
from mmclr.data.stream.batch import Batch
from mmclr.losses.diagnostics import diagnose
from mmclr.train.checkpoints import state
from mmclr.train.evaluation import Evaluations
from mmclr.train.logging.clock import Clock
from mmclr.train.logging.log import Display, Log
from mmclr.train.parts import Parts
from mmclr.train.processes import threads
from mmclr.train.processes.signals import Stop
from mmclr.train.step import Stage


class Loop:
    """Takes the remaining steps of a run. All ranks run it; the main process speaks."""

    def __init__(
        self, t: Parts, step: Callable[[Batch], dict[str, Any]], evaluations: Evaluations, quiet: bool
    ) -> None:
        """`step` takes one step with a batch, and returns what is worth logging about it."""
        self.parts, self.step, self.evaluations = t, step, evaluations
        self.main, self.steps = t.accelerator.is_main_process, t.steps
        t.display = self.display = Display(self.steps, t.taken, quiet=quiet or not self.main)
        self.log = Log(t.run.folder / "log.jsonl", t.taken, off=not self.main)
        self.stop = Stop()
        self._tracked = True

    def run(self) -> Path:
        """Take the steps, until the last or until a signal asks to stop; return the last checkpoint."""
        t = self.parts
        with self.display, self.log, self.stop, threads.settled(t):
            batches, self.clock = iter(t.loader), Clock(t.run.data.batch)
            self._say_notes()
            while t.taken < self.steps and not parallel.agree(self.stop.asked or t.saver.failed):
                values = self.step(self.clock.wait(batches))
                self.display.advance(t.taken)
                if t.taken % t.run.log_every == 0 or t.taken == self.steps:
                    self._report(values)
                with self.clock.stopped():
                    self._look_and_save()
            t.saver.wait()
            folder = self._save()
            t.saver.wait()
            t.accelerator.wait_for_everyone()
            if t.taken < self.steps:  # one process may have been asked, and all have stopped
                t.stopped = next(name for name in parallel.say(self.stop.name) if name)
            self._conclude(folder)
        return folder

    def _look_and_save(self) -> None:
        """Diagnose, evaluate and save, whichever is due; the last step is saved by the end of the loop."""
        t, last = self.parts, self.parts.taken == self.steps
        if t.run.diagnose_every and t.taken % t.run.diagnose_every == 0:
            self._diagnose()
        better = self._evaluate(self.evaluations.due(t.taken, last))
        if not last and (better or t.saver.due(t.taken)):
            self._save()

    def _save(self) -> Path:
        folder = self.parts.saver.save(self.parts.taken, partial(state.take, self.parts))
        self._say_notes()
        return folder

    def _report(self, values: dict[str, Any]) -> None:
        """Write a line of the log, and show it."""
        t = self.parts
        row: dict[str, Any] = {**numbers(values), **self.clock.read(t.taken, self.steps), "threads": t.threads}
        if len(t.run.data.sources()) > 1:
            row["shares"] = {name: round(share, 6) for name, share in t.loader.shares().items()}
        if parallel.agree(t.guard.spikes(row["loss"])) and t.batch is not None:
            row["spike"] = [key for keys in parallel.say("\n".join(t.batch.keys)) for key in keys.split("\n")]
        self._log(row)
        self.display.show({"step": t.taken, **row})

    @torch.no_grad()
    def _diagnose(self) -> None:
        """Log how the last batch lies after its step; of micro-batches the first."""
        t = self.parts
        if t.batch is not None:
            t.seed()
            part = t.batch.split(t.run.micro_batch or len(t.batch.weights))[0]
            self._log({"batch": diagnose(**t.strategy.wrapped(part, t.taken / self.steps, Stage.LOOK))})

    def _evaluate(self, names: list[str]) -> bool:
        """Make evaluations; say whether these weights are the best so far."""
        if not names:
            return False
        t = self.parts
        metrics = self.evaluations.make(names, t)
        if not metrics:
            return False
        self._log({"eval": metrics})
        told = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if value is not None)
        self.display.say(f"step {t.taken}: {told}")
        better = parallel.agree(t.saver.improves(t.taken, metrics))
        self._say_notes()
        return better

    def _log(self, row: dict[str, Any]) -> None:
        """Write a line of the log, and tell the trackers its numbers."""
        step = self.parts.taken
        before = self.log.fault
        if not self.log.write({"step": step, **row}) and not before:
            self.display.say(f"{self.log.path} cannot be written ({self.log.fault}); the run goes on, and tries again")
        flat = {f"{k}/{name}": v for k, inner in row.items() if isinstance(inner, dict) for name, v in inner.items()}
        told = {k: v for k, v in {**row, **flat}.items() if isinstance(v, (int, float))}
        if self._tracked:
            try:
                self.parts.accelerator.log(told, step=step)
            except OSError as error:
                self._tracked = False
                self.display.say(f"trackers: {error}; the run goes on, and tells them no more")

    def _say_notes(self) -> None:
        notes = self.parts.saver.notes
        while notes:
            self.display.say(notes.pop(0))

    def _conclude(self, folder: Path) -> None:
        """Say how the run ended, and what was left out."""
        t, say = self.parts, self.display.say
        self._say_notes()
        for line in t.loader.ledger.lines(t.loader.ledger.summed()):
            say(line)
        if t.taken < self.steps:
            how = "" if t.run.resume == "auto" else " with resume=auto"
            say(
                f"stopped by {t.stopped} after step {t.taken} of {self.steps}, and saved; the same command{how} goes on"
            )
        if t.guard.total:
            say(f"{t.guard.total} of {self.steps} updates were left out: not finite (batches in {t.guard.folder})")
        if self.log.fault:
            say(f"{self.log.path}: its last lines are lost ({self.log.fault})")
        say(f"checkpoint: {folder}")


def numbers(values: dict[str, Any]) -> dict[str, float]:
    """Return logged values as floats, all fetched from the device at once."""
    names = [name for name, value in values.items() if isinstance(value, Tensor)]
    fetched = torch.stack([values[name].float() for name in names]).tolist()
    return {**values, **dict(zip(names, fetched))}
