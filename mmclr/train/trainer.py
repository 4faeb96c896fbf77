"""The loop: batches in, steps taken; logs, checkpoints and averages hang on its clock."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from mmclr import parallel
from mmclr.config import to_tree
from mmclr.data.loader import Batch, Loader
from mmclr.data.text import Tokenizer
from mmclr.errors import UserError
from mmclr.features.frozen import Frozen
from mmclr.features.student import Student
from mmclr.losses.objective import Facts
from mmclr.losses.terms import build_terms
from mmclr.models.two_tower import TwoTower, with_tokenizer
from mmclr.train import accumulate, checkpoint, lock, optimizer
from mmclr.train.average import Average
from mmclr.train.clock import Clock
from mmclr.train.guard import Guard
from mmclr.train.log import Display, Log
from mmclr.train.run import RunConfig
from mmclr.train.step import Step
from mmclr.train.stop import Stop


def train(run: RunConfig, quiet: bool = False) -> Path:
    """Train until the run's last step, or until a signal asks to stop; return the newest checkpoint."""
    # Per-sample state differs between ranks on purpose, so DDP must not copy rank 0's buffers to the others.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False)
    accelerator = Accelerator(mixed_precision=_precision(run.precision), kwargs_handlers=[ddp])
    held = lock.hold(run.folder) if accelerator.is_main_process else None
    try:
        return Trainer(run, accelerator).fit(quiet)
    finally:
        accelerator.end_training()
        if held is not None:
            held.close()


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
        self.average = Average(self.model, run.average.decay) if run.average.decay else None
        student = Student(self.model, run.patch_dropout)
        teachers = [Frozen(run.teacher, t, run.model.image.size)] if run.teacher else []
        self.bare = Step([*teachers, student], terms)
        student.freeze_unasked(self.bare.wanted)
        self.bare.setup(Facts(self.loader.samples, self.model.config.embed, self.steps, run.data.batch))
        self.optimizer = optimizer.build(run.optim, self.bare)
        self.taken = 0  # steps so far
        self.keys: list[str] = []  # of the last batch
        self.display = Display(self.steps, 0, quiet=True)
        self.guard = Guard(run.guard, run.folder / "bad")
        self.notes = self._resume()
        if self.average is not None:
            self.average.model.to(accelerator.device)
        with warnings.catch_warnings():  # torch wants another name for broadcast_buffers, which does less
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self.step, self.prepared = accelerator.prepare(self.bare, self.optimizer)

    @property
    def models(self) -> dict[str, TwoTower]:
        """The models that a checkpoint holds, by folder."""
        average = {} if self.average is None else {"average": self.average.model}
        return {"model": self.model, **average}

    def fit(self, quiet: bool = False) -> Path:
        """Take the remaining steps; log and save on the way."""
        main = self.accelerator.is_main_process
        self.display = Display(self.steps, self.taken, quiet=quiet or not main)
        clock = Clock(self.run.data.batch)
        with self.display, Log(self.run.folder / "log.jsonl", self.taken, off=not main) as log, Stop() as stop:
            for note in self.notes:
                self.display.say(note)
            batches = iter(self.loader)
            while self.taken < self.steps and not parallel.agree(stop.asked):
                values = self.take_step(clock.wait(batches))
                self.display.advance(self.taken)
                if self.taken % self.run.log_every == 0 or self.taken == self.steps:
                    self._report(values, clock, log)
                if self.taken < self.steps and self._due(clock):
                    self._save()
                    clock.saved = time.monotonic()
            folder = self._save()
            self._conclude(folder, stop)
        return folder

    def _report(self, values: dict[str, Any], clock: Clock, log: Log) -> None:
        """Write a line of the log, and show it."""
        row = {"step": self.taken, **numbers(values), **clock.read(self.taken, self.steps)}
        self.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=self.taken)
        if self.guard.spikes(row["loss"]):
            row["spike"] = self.keys
        log.write(row)
        self.display.show(row)

    def take_step(self, batch: Batch) -> dict[str, Any]:
        """Take one optimizer step; return what is worth logging about it, not yet waited for."""
        self._seed()
        lr = optimizer.learning_rate(self.run.optim, self.taken, self.steps)
        optimizer.set_rate(self.optimizer, lr)
        self.step.train()
        batch, progress = batch.to(self.accelerator.device), self.taken / self.steps
        self.keys = batch.keys
        loss, terms = self._backward(batch, progress)
        gradients = [p.grad for p in self.step.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        self.taken += 1
        fault = self.guard.fault(norm, self.taken, self.bare, batch, progress)
        if fault:
            self.display.say(fault)
            self.prepared.zero_grad()
        else:
            self._update(norm)
        return {"loss": loss.detach(), **terms, "scale": self.model.scale.detach(), "lr": lr, "grad_norm": norm}

    def _backward(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Leave the gradient of the global batch in the parameters."""
        size = self.run.micro_batch
        if 0 < size < len(batch.weights):
            out = accumulate.backward(self.accelerator, self.step, batch, progress, size, self._seed)
        else:
            out = self.step(batch, progress)
            self.accelerator.backward(out[0])
        if self.accelerator.scaler is not None:
            self.accelerator.unscale_gradients()
        return out

    def _update(self, norm: Tensor) -> None:
        """Change the weights, and everything that follows them."""
        if self.run.optim.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.step.parameters(), self.run.optim.clip_norm, norm)
        self.prepared.step()
        self.prepared.zero_grad()
        self.bare.after_step()
        if self.average is not None:
            self.average.update(self.model, self.taken)

    def _seed(self) -> None:
        """Seed the step's randomness: the same on every rank, in every micro-batch, and after a resume."""
        torch.manual_seed(self.run.seed * 1_000_003 + self.taken)

    def _resume(self) -> list[str]:
        """Go back to where the run was; return what there is to say about it."""
        run = self.run
        left = checkpoint.sweep(run.folder) if self.accelerator.is_main_process else []
        notes = [f"{path.name}: a checkpoint that was not finished; deleted" for path in left]
        if run.resume == "never":
            return notes
        folder = checkpoint.latest(run.folder) if run.resume == "auto" else checkpoint.find(run.resume)
        if folder is None:
            return notes
        position = checkpoint.load(
            folder, models=self.models, objectives=self.bare.objectives, optimizer=self.optimizer
        )
        self.taken = position["step"]
        self.loader.load_state_dict(position["loader"])
        return [*notes, f"resuming after step {self.taken} of {self.steps} from {folder}"]

    def _due(self, clock: Clock) -> bool:
        """Whether to save now, decided together: clocks differ between ranks."""
        c = self.run.save
        if c.every_steps and self.taken % c.every_steps == 0:
            return True
        return bool(c.every_minutes) and parallel.agree(time.monotonic() - clock.saved > 60 * c.every_minutes)

    def _save(self) -> Path:
        """Write a checkpoint; every rank returns when it is whole."""
        folder = checkpoint.folder_of(self.run.folder, self.taken)
        position = {"step": self.taken, "loader": self.loader.state_dict()}  # sums over ranks: all must ask
        if self.accelerator.is_main_process:
            checkpoint.save(
                folder,
                config=yaml.safe_dump(to_tree(self.run), sort_keys=False, allow_unicode=True),
                models=self.models,
                tokenizer=self.tokenizer,
                objectives=self.bare.objectives,
                optimizer=self.optimizer.state_dict(),
                position=position,
                keep=self.run.save.keep,
            )
        self.accelerator.wait_for_everyone()
        return folder

    def _conclude(self, folder: Path, stop: Stop) -> None:
        """Say how the run ended, and what was left out."""
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


def _precision(wanted: str) -> str:
    """Return accelerate's name for a precision; auto is bf16 on a GPU that has it and float32 elsewhere."""
    if wanted == "auto":
        wanted = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"
    if wanted == "fp16" and not torch.cuda.is_available():
        raise UserError("precision: fp16 needs a GPU; write precision: float32 (or auto)")
    return {"float32": "no"}.get(wanted, wanted)
