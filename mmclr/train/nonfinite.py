"""Guard against numbers that are not finite: the update is left out, and the run says where it came from.

All ranks decide together. Nothing has changed by then: objectives change their state only in after_step, and the
trainer puts running statistics back.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Ge, Gt
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from mmclr import parallel, vocabulary
from mmclr.config import config
from mmclr.data.stream.batch import Batch
from mmclr.errors import UserError
from mmclr.storage import written
from mmclr.train.step import Stage

if TYPE_CHECKING:
    from mmclr.train.strategies import Plain  # a config must not wait for what it imports

KIND = "kept batch"


@config
class GuardConfig:
    """Limits: when a run stops, and the height of a spike."""

    stop_after: Annotated[int, Ge(1)] = 10  # updates in a row that are not finite
    spike: Annotated[float, Gt(0)] = 8.0  # standard deviations of the recent loss above its mean; logged with its ids


@dataclass
class Guard:
    """Watches one run. `folder` takes the batches that broke a step."""

    config: GuardConfig
    folder: Path
    in_a_row: int = 0
    total: int = 0
    _recent: list[float] = field(default_factory=list)

    def fault(self, number: int, strategy: Plain, parts: list[Batch], progress: float, wrong: Sequence[str]) -> str:
        """Return what to say of a loss or gradient that is not finite. Raises UserError after too many in a row.

        `parts` are the step's micro-batches; the generators must stand where they stood when it began. `wrong` are the
        terms of the loss that are not finite.
        """
        self.in_a_row += 1
        self.total += 1
        cause = find_cause(strategy, parts, progress)
        if not parallel.agree(bool(cause)) and wrong:
            cause = f"objectives.{wrong[0]}"
        paths = [self._keep(f"step-{number:08d}-rank-{parallel.rank()}-{i}", part) for i, part in enumerate(parts)]
        where = (
            "; ".join(f"rank {r}: {text}" for r, text in enumerate(parallel.say(cause)) if text) or "no rank can say"
        )
        kept = f"the batch is kept in {self.folder}" if all(paths) else f"the batch cannot be kept in {self.folder}"
        message = f"step {number}: the loss or its gradient is not finite ({where}); no update, {kept}"
        if self.in_a_row >= self.config.stop_after:
            raise UserError(
                f"{message}\n{self.in_a_row} such steps in a row (guard.stop_after): stopping. Lower optim.lr, look at "
                "the kept batches, or go back to an earlier checkpoint with resume=..."
            )
        return message

    def spikes(self, loss: float) -> bool:
        """Take in a logged loss; say whether it is far above the recent ones."""
        if not math.isfinite(loss):
            return True  # and no later one would be above a mean with it
        recent, self._recent = self._recent, [*self._recent[-99:], loss]
        if len(recent) < 20:
            return False
        mean = sum(recent) / len(recent)
        deviation = (sum((x - mean) ** 2 for x in recent) / len(recent)) ** 0.5
        return loss > mean + self.config.spike * max(deviation, 1e-6 * abs(mean))

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, and the losses that the next one is compared with."""
        return {"in_a_row": self.in_a_row, "total": self.total, "recent": self._recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self.in_a_row, self.total, self._recent = state["in_a_row"], state["total"], state.get("recent", [])

    def _keep(self, name: str, batch: Batch) -> Path | None:
        """Write a batch; return None where that fails: it is no reason to end, and the other ranks wait."""
        try:
            return self._write(name, batch)
        except (OSError, SafetensorError):
            return None

    def _write(self, name: str, batch: Batch) -> Path:
        path = self.folder / f"{name}.safetensors"
        tensors = {name: value.cpu().contiguous() for name, value in batch.tensors().items()}
        try:
            written.check(path, KIND)
        except UserError:  # somebody else's: training goes on, beside it
            path = path.with_name(f"{name}-{uuid.uuid4().hex[:8]}.safetensors")
        with written.staged(path, KIND) as partial:
            save_file(tensors, partial, metadata={"keys": "\n".join(batch.keys)})
        return path


def find_cause(strategy: Plain, parts: list[Batch], progress: float) -> str:
    """Say what is not finite on this rank: a weight, the first module's output and its samples, or a gradient.

    Ranks go on to the next question together, because looking at outputs and gradients may take all of them.
    """
    weights = [name for name, part in strategy.shards().items() if not torch.isfinite(part).all()]
    if parallel.agree(bool(weights)):
        return f"the weight {weights[0]}" if weights else ""
    found = [(part, *_first_output(strategy.step, part, progress)) for part in parts]
    modules = [module for _, module, _ in found if module]
    if parallel.agree(bool(modules)):
        keys = [part.keys[row] for part, _, rows in found for row in rows]
        some = 0 < len(keys) < sum(len(part.keys) for part in parts)
        return f"the output of {modules[0]}" + (f" for {', '.join(keys[:8])}" if some else "") if modules else ""
    bad = [name for name, gradient in strategy.gradients().items() if not _finite(gradient)]
    return f"the gradient of {bad[0]}" + (f" and of {len(bad) - 1} others" if len(bad) > 1 else "") if bad else ""


def _finite(x: Any) -> bool:
    part = x.to_local() if hasattr(x, "to_local") else x
    return bool(torch.isfinite(part).all())


@torch.no_grad()
def _first_output(step: nn.Module, batch: Batch, progress: float) -> tuple[str, list[int]]:
    """Embed the batch again; return the first module with a non-finite output, and the rows that make it."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(name)

        return hook

    hooks = [module.register_forward_hook(watch(name)) for name, module in step.named_modules() if name]
    with torch.compiler.set_stance("force_eager"):  # compiled blocks pass hooks by
        features = step(batch, progress, Stage.FEATURES)
    for hook in hooks:
        hook.remove()
    rows_first = vocabulary.names(per_sample=True)
    by_row = [features[name] for name in sorted(features.keys() & rows_first)]
    whole = [x.flatten(1) for x in by_row if x.is_floating_point() and x.dim() > 1 and len(x) == len(batch.keys)]
    rows = torch.stack([~torch.isfinite(x).all(1) for x in whole]).any(0).nonzero().flatten().tolist() if whole else []
    return (found[0] if found else "the features" if rows else ""), rows
