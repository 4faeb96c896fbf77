"""A run in one process: its parts filled with weights, and the step that they take together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmclr import parallel
from mmclr.data.stream.batch import Batch
from mmclr.errors import UserError
from mmclr.heads.ema_copy import restart
from mmclr.models.two_tower import TwoTower
from mmclr.train import gradient_cache, optimizer
from mmclr.train.averages import Following
from mmclr.train.checkpoints import lock, ownership, state
from mmclr.train.evaluation import Evaluations
from mmclr.train.logging import trackers
from mmclr.train.loop import Loop
from mmclr.train.parts import Parts
from mmclr.train.processes import join
from mmclr.train.run import RunConfig


def train(run: RunConfig, quiet: bool = False) -> Path:
    """Train until the run's last step, or until a signal asks to stop; return the newest checkpoint."""
    return train_until_stopped(run, quiet)[0]


def train_until_stopped(run: RunConfig, quiet: bool = False) -> tuple[Path, str]:
    """Train; return the newest checkpoint, and the name of the signal that stopped the run before its last step."""
    run = run.resolved()
    with (
        join.joined(run.timeout, **trackers.settings(run)) as accelerator,
        lock.held(run.folder, accelerator.is_main_process),
    ):
        if accelerator.is_main_process:
            ownership.claim(run.folder)
        trainer = Trainer(run, accelerator)
        trackers.start(accelerator, run)
        return trainer.fit(quiet), trainer.stopped


class Trainer(Parts):
    """The parts of a run and the step that they take together."""

    def __init__(self, run: RunConfig, accelerator: Accelerator) -> None:
        self.evaluations = Evaluations(run.evaluate)
        self.evaluations.check_best(run.save.best)
        super().__init__(run, accelerator)
        self.following = Following(self.step, run.ema)
        source = self.saver.source(run.resume)
        self.begin(anew=source is None)
        self.statistics = running_statistics(self.model)
        if self.statistics and run.micro_batch:
            raise UserError(
                "micro_batch: a tower has batch norms, which see the samples of a micro-batch alone: the gradient "
                "would not be that of the whole batch; set micro_batch=0, or lock that tower"
            )
        restart(self.step)
        if source is not None:
            state.give_weights(self, source)
        self.share()
        if source is not None:
            state.give_rest(self, source)
            self.saver.notes.append(f"resuming after step {self.taken} of {self.steps} from {source}")

    def fit(self, quiet: bool = False) -> Path:
        """Take the remaining steps; return the last checkpoint."""
        self.saver.begin(self.taken, (self.run.init.source, self.run.teacher, self.run.model.preset or ""))
        return Loop(self, self.take_step, self.evaluations, quiet).run()

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


def running_statistics(model: TwoTower) -> list[Tensor]:
    """Return the buffers that a forward changes: those of batch norms in towers that are not locked."""
    found = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [buffer for module in found if module not in model.locked for buffer in module.buffers()]
