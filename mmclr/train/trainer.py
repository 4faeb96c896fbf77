"""The loop: batches in, steps taken; logs, checkpoints and averages hang on its clock."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from mmclr import parallel
from mmclr.data.loader import Batch, Loader
from mmclr.data.text import Tokenizer
from mmclr.errors import UserError
from mmclr.features.frozen import Frozen
from mmclr.features.student import Student
from mmclr.losses.objective import Facts
from mmclr.losses.terms import build_terms
from mmclr.models.two_tower import TwoTower, with_tokenizer
from mmclr.train import accumulate, lock, optimizer, processes, state, strategies
from mmclr.train.average import Average
from mmclr.train.begin import begin
from mmclr.train.clock import Clock
from mmclr.train.guard import Guard
from mmclr.train.log import Display, Log
from mmclr.train.run import RunConfig
from mmclr.train.saver import Saver
from mmclr.train.shell import hollow
from mmclr.train.step import Step
from mmclr.train.stop import Stop
from mmclr.train.strategies.loss_scale import LossScale


def train(run: RunConfig, quiet: bool = False) -> Path:
    """Train until the run's last step, or until a signal asks to stop; return the newest checkpoint."""
    with processes.joined(run.timeout) as accelerator, lock.held(run.folder, accelerator.is_main_process):
        return Trainer(run, accelerator).fit(quiet)


class Trainer:
    """One run in one process (of several that all do the same on their share of each batch)."""

    def __init__(self, run: RunConfig, accelerator: Accelerator) -> None:
        self.run, self.accelerator = run, accelerator
        t = self.tokenizer = Tokenizer.load(run.tokenizer, run.model.text.context)
        self.loader = Loader(run.data, t, run.model.image.size, run.seed, parallel.rank(), parallel.world())
        self.steps = run.total_steps(self.loader.samples)
        terms = build_terms(run.objectives)
        bias = any("bias" in term.objective.needs for term in terms.values())
        torch.manual_seed(run.seed)
        self.model = TwoTower(with_tokenizer(run.model, t.vocab_size, t.bos_id, t.eos_id, t.pad_id), bias)
        self.shell = hollow(self.model)
        self.student = Student(self.model, run.patch_dropout)
        teachers = [Frozen(run.teacher, t, run.model.image.size)] if run.teacher else []
        self.step = Step([*teachers, self.student], terms)
        self.student.freeze_unasked(self.step.wanted)
        self.step.setup(Facts(self.loader.samples, self.model.config.embed, self.steps, run.data.batch))
        kind = precision(run.precision)
        self.step.precision = None if kind == torch.float32 else kind
        self.prefix = f"sources.{len(teachers)}.model."  # of the model's weights in the step
        self.taken = 0  # steps so far
        self.keys: list[str] = []  # of the last batch
        self.display = Display(self.steps, 0, quiet=True)
        self.guard = Guard(run.guard, run.folder / "bad")
        self.saver = Saver(run.save, run.folder, accelerator)
        source = self.saver.source(run.resume)
        begin(self.model, run, t, anew=source is None)
        if source is not None:
            state.give_weights(self, source)
        scale = LossScale() if kind == torch.float16 else None
        build = partial(optimizer.build, run.optim)
        self.strategy = strategies.choose(accelerator, self.step, build, run.optim.clip_norm, scale)
        names = [name for name in self.strategy.parameters if name.startswith(self.prefix)]
        self.average = Average(self.strategy, names, run.average.decay) if run.average.decay else None
        if source is not None:
            state.give_rest(self, source)
            self.saver.notes.append(f"resuming after step {self.taken} of {self.steps} from {source}")

    def fit(self, quiet: bool = False) -> Path:
        """Take the remaining steps; log and save on the way."""
        main = self.accelerator.is_main_process
        self.display = Display(self.steps, self.taken, quiet=quiet or not main)
        clock = Clock(self.run.data.batch)
        with self.display, Log(self.run.folder / "log.jsonl", self.taken, off=not main) as log, Stop() as stop:
            batches = iter(self.loader)
            self._say_notes()
            while self.taken < self.steps and not parallel.agree(stop.asked):
                values = self.take_step(clock.wait(batches))
                self.display.advance(self.taken)
                if self.taken % self.run.log_every == 0 or self.taken == self.steps:
                    self._report(values, clock, log)
                if self.taken < self.steps and self.saver.due(self.taken):
                    self._save()
            folder = self._save()
            self.saver.wait()
            self.accelerator.wait_for_everyone()
            self._conclude(folder, stop)
        return folder

    def _save(self) -> Path:
        folder = self.saver.save(self.taken, partial(state.take, self))
        self._say_notes()
        return folder

    def _say_notes(self) -> None:
        while self.saver.notes:
            self.display.say(self.saver.notes.pop(0))

    def _report(self, values: dict[str, Any], clock: Clock, log: Log) -> None:
        """Write a line of the log, and show it."""
        row = {"step": self.taken, **numbers(values), **clock.read(self.taken, self.steps)}
        self.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=self.taken)
        if self.guard.spikes(row["loss"]):
            row["spike"] = self.keys
        log.write(row)
        self.display.show(row)

    # A step

    def take_step(self, batch: Batch) -> dict[str, Any]:
        """Take one optimizer step; return what is worth logging about it, not yet waited for."""
        lr = optimizer.learning_rate(self.run.optim, self.taken, self.steps)
        optimizer.set_rate(self.strategy.optimizer, lr)
        self.strategy.wrapped.train()
        batch, progress = batch.to(self.accelerator.device), self.taken / self.steps
        self.keys = batch.keys
        size = self.run.micro_batch if 0 < self.run.micro_batch < len(batch.weights) else 0
        self._seed()
        loss, terms = self._backward(batch, progress, size)
        norm = self.strategy.norm()
        if self._sound(norm, batch, progress):
            self._update(norm)
        else:
            self.strategy.skip()
        self.taken += 1
        return {"loss": loss.detach(), **terms, "lr": lr, "grad_norm": norm}

    def _backward(self, batch: Batch, progress: float, size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Leave the gradient of the global batch with the strategy."""
        if size:
            return accumulate.backward(self.strategy, batch, progress, size, self._seed)
        loss, terms = self.strategy.wrapped(batch, progress)
        self.strategy.backward(loss)
        return loss, terms

    def _sound(self, norm: Tensor, batch: Batch, progress: float) -> bool:
        """Say whether the gradient can be used; say on the display why not."""
        scale = self.strategy.scale
        if bool(torch.isfinite(norm)):
            self.guard.in_a_row = 0
            if scale is not None:
                scale.hold()
            return True
        if scale is None or not scale.lower():
            self._seed()
            parts = batch.split(self.run.micro_batch or len(batch.weights))
            self.display.say(self.guard.fault(self.taken + 1, self.strategy, parts, progress))
        return False

    def _update(self, norm: Tensor) -> None:
        """Change the weights, and everything that follows them."""
        self.strategy.update(norm)
        self.step.after_step()
        if self.average is not None:
            self.average.update(self.taken + 1)

    def _seed(self) -> None:
        """Seed the step's randomness: the same on every rank, in every micro-batch, and after a resume."""
        torch.manual_seed(self.run.seed * 1_000_003 + self.taken)

    def _conclude(self, folder: Path, stop: Stop) -> None:
        """Say how the run ended, and what was left out."""
        self._say_notes()
        say = self.display.say
        for line in self.loader.ledger.lines(self.loader.ledger.summed()):
            say(line)
        if self.taken < self.steps:
            say(f"stopped by {stop.name} after step {self.taken} of {self.steps}; the same command goes on")
        if self.guard.total:
            say(
                f"{self.guard.total} of {self.steps} updates were left out: not finite (batches in {self.guard.folder})"
            )
        say(f"checkpoint: {folder}")


def numbers(values: dict[str, Any]) -> dict[str, float]:
    """Return logged values as floats, all fetched from the device at once."""
    names = [name for name, value in values.items() if isinstance(value, Tensor)]
    fetched = torch.stack([values[name].float() for name in names]).tolist()
    return {**values, **dict(zip(names, fetched))}


def precision(wanted: str) -> torch.dtype:
    """Return the type that towers compute in; auto is bf16 on a GPU that has it and float32 elsewhere."""
    if wanted == "auto":
        wanted = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"
    if wanted == "fp16" and not torch.cuda.is_available():
        raise UserError("precision: fp16 needs a GPU; write precision: float32 (or auto)")
    return {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]
