"""A run in one process: all its parts put together, and the step that they take together."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmclr import parallel
from mmclr.data.samples.text import Tokenizer
from mmclr.data.stream.loader import Batch, Loader
from mmclr.errors import UserError
from mmclr.features.ema import Ema, asked
from mmclr.features.frozen import Frozen
from mmclr.features.student import Student
from mmclr.heads.ema_copy import restart
from mmclr.losses.objective import Facts
from mmclr.losses.weighted_sum import build_terms, needs
from mmclr.models.activation_checkpointing import recompute
from mmclr.models.compile import compile_blocks
from mmclr.models.two_tower import TwoTower, with_tokenizer
from mmclr.train import gradient_cache, optimizer, strategies
from mmclr.train.average import Average
from mmclr.train.checkpoints import lock, ownership, state
from mmclr.train.checkpoints.capture import hollow
from mmclr.train.checkpoints.saver import Saver
from mmclr.train.evaluation import Evaluations
from mmclr.train.following import Following
from mmclr.train.logging import trackers
from mmclr.train.logging.log import Display
from mmclr.train.loop import Loop
from mmclr.train.nonfinite import Guard
from mmclr.train.parts import begin
from mmclr.train.processes import join
from mmclr.train.run import RunConfig
from mmclr.train.step import Step
from mmclr.train.strategies.loss_scale import LossScale


def train(run: RunConfig, quiet: bool = False) -> Path:
    """Train until the run's last step, or until a signal asks to stop; return the newest checkpoint."""
    return train_until_stopped(run, quiet)[0]


def train_until_stopped(run: RunConfig, quiet: bool = False) -> tuple[Path, str]:
    """Train; return the newest checkpoint, and the name of the signal that stopped the run before its last step."""
    with (
        join.joined(run.timeout, **trackers.settings(run)) as accelerator,
        lock.held(run.folder, accelerator.is_main_process),
    ):
        if accelerator.is_main_process:
            ownership.claim(run.folder)
        trainer = Trainer(run, accelerator)
        trackers.start(accelerator, run)
        return trainer.fit(quiet), trainer.stopped


class Trainer:
    """One run in one process (of several that all do the same on their share of each batch)."""

    def __init__(self, run: RunConfig, accelerator: Accelerator) -> None:
        self.run, self.accelerator = run, accelerator
        self.evaluations = Evaluations(run.evaluate)
        self.evaluations.check_best(run.save.best)
        t = self.tokenizer = Tokenizer.load(run.tokenizer, run.model.text.context)
        self.loader = Loader(run.data, t, run.model.image.size, run.seed, parallel.rank(), parallel.world())
        self.steps = run.total_steps(self.loader.samples)
        terms = build_terms(run.objectives)
        bias = any("bias" in term.objective.needs for term in terms.values())
        torch.manual_seed(run.seed)
        self.model = TwoTower(with_tokenizer(run.model, t.vocab_size, t.bos_id, t.eos_id, t.pad_id), bias)
        self.shell = hollow(self.model)
        self.student = Student(self.model, run.patch_dropout.first, run.data.views, run.data.text_views)
        teachers = [Frozen(run.teacher, t, run.model.image.size)] if run.teacher else []
        self.ema = Ema(self.student, needs(terms)) if asked(needs(terms)) else None
        self.step = Step([*teachers, self.student, *([self.ema] if self.ema else [])], terms)
        self.student.freeze_unasked(self.step.wanted)
        loader, width = self.loader, self.model.config.embed
        self.step.setup(Facts(loader.samples, width, self.steps, run.data.batch, loader.cluster_count))
        kind = precision(run.precision)
        self.step.precision = None if kind == torch.float32 else kind
        self.following = Following(self.step, run.ema)
        self.prefix = f"sources.{len(teachers)}.model."  # of the model's weights in the step
        self.ema_prefix = f"sources.{len(teachers) + 1}."
        self.taken = 0  # steps so far
        self.threads = 0  # that compute them; 0: not known yet
        self.stopped = ""  # by which signal, before the last step
        self.batch: Batch | None = None  # the last
        self.display = Display(self.steps, 0, quiet=True)
        self.guard = Guard(run.guard, run.folder / "bad")
        self.saver = Saver(run.save, run.folder, accelerator)
        source = self.saver.source(run.resume)
        begin(self.model, run, t, anew=source is None)
        self.statistics = running_statistics(self.model)
        if self.statistics and run.micro_batch:
            raise UserError(
                "micro_batch: a tower has batch norms, which see the samples of a micro-batch alone: the gradient "
                "would not be that of the whole batch; set micro_batch=0, or lock that tower"
            )
        restart(self.step)
        if source is not None:
            state.give_weights(self, source)
        if run.activation_checkpointing:
            recompute(self.model)
        if run.compile:
            compile_blocks(self.model)
        scale = LossScale() if kind == torch.float16 else None
        build = partial(optimizer.build, run.optim)
        self.strategy = strategies.choose(accelerator, self.step, build, run.optim.clip_norm, scale)
        names = [name for name in self.strategy.parameters if name.startswith(self.prefix)]
        self.average = Average(self.strategy, names, run.average.decay) if run.average.decay else None
        if source is not None:
            state.give_rest(self, source)
            self.saver.notes.append(f"resuming after step {self.taken} of {self.steps} from {source}")

    def fit(self, quiet: bool = False) -> Path:
        """Take the remaining steps; return the last checkpoint."""
        self.saver.begin(self.taken, (self.run.init.source, self.run.teacher, self.run.model.preset or ""))
        return Loop(self, quiet).run()

    def take_step(self, batch: Batch) -> dict[str, Any]:
        """Take one optimizer step; return what is worth logging about it, not yet waited for."""
        lr = optimizer.learning_rate(self.run.optim, self.taken, self.steps)
        optimizer.set_rate(self.strategy.optimizer, lr)
        self.strategy.wrapped.train()
        batch, progress = batch.to(self.accelerator.device), self.taken / self.steps
        self.student.patch_dropout = self.run.patch_dropout(progress)
        self.batch = batch
        size = self.run.micro_batch if 0 < self.run.micro_batch < len(batch.weights) else 0
        self.seed()
        statistics = [buffer.clone() for buffer in self.statistics]
        loss, terms = self._backward(batch, progress, size)
        norm = self.strategy.norm()
        if self._sound(norm, loss, terms, batch, progress):
            self._update(norm, progress)
        else:
            self.strategy.skip()
            for buffer, before in zip(self.statistics, statistics):
                buffer.copy_(before)
        self.taken += 1
        return {"loss": loss.detach(), **terms, "lr": lr, "grad_norm": norm}

    def _backward(self, batch: Batch, progress: float, size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Leave the gradient of the global batch with the strategy."""
        if size:
            return gradient_cache.backward(self.strategy, batch, progress, size, self.seed)
        loss, terms = self.strategy.wrapped(batch, progress)
        self.strategy.backward(loss)
        return loss, terms

    def _sound(self, norm: Tensor, loss: Tensor, terms: Mapping[str, Tensor], batch: Batch, progress: float) -> bool:
        """Say whether the gradient can be used; say on the display why not."""
        scale = self.strategy.scale
        if not parallel.agree(not bool(torch.isfinite(norm) & torch.isfinite(loss.detach()))):
            self.guard.in_a_row = 0
            return True
        if scale is None or not scale.lower():
            self.seed()
            parts = batch.split(self.run.micro_batch or len(batch.weights))
            wrong = [name for name, value in terms.items() if not torch.isfinite(torch.as_tensor(value)).all()]
            self.display.say(self.guard.fault(self.taken + 1, self.strategy, parts, progress, wrong))
        return False

    def _update(self, norm: Tensor, progress: float) -> None:
        """Change the weights, and everything that follows them."""
        self.strategy.update(norm)
        if self.strategy.scale is not None:
            self.strategy.scale.hold()  # now: the update divides by the factor that the loss was multiplied with
        self.following.update(self.strategy, progress)
        self.step.after_step()
        if self.average is not None:
            self.average.update(self.taken + 1)

    def seed(self) -> None:
        """Seed the step's randomness: the same on every rank, in every micro-batch, and after a resume."""
        torch.manual_seed(self.run.seed * 1_000_003 + self.taken)


def running_statistics(model: TwoTower) -> list[Tensor]:
    """Return the buffers that a forward changes: those of the batch norms of foreign towers that are not locked."""
    found = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [buffer for module in found if module not in model.locked for buffer in module.buffers()]


def precision(wanted: str) -> torch.dtype:
    """Return the type that towers compute in; auto is bf16 on a GPU that has it and float32 elsewhere."""
    if wanted == "auto":
        wanted = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"
    if wanted == "fp16" and not torch.cuda.is_available():
        raise UserError("precision: fp16 needs a GPU; write precision: float32 (or auto)")
    return {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]
