"""Evaluation during training: named sets, every so many steps or minutes, on all ranks.

Every rank embeds its part of a set with a whole copy of the weights (the averaged ones where there are), so nothing
in it waits for rank 0, and it is the same under every strategy.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Mapping
from typing import Any

import torch

from mmclr import parallel
from mmclr.config import ConfigError, check, nearest
from mmclr.errors import UserError
from mmclr.eval import suites
from mmclr.train.checkpoints.capture import fill
from mmclr.train.checkpoints.state import below
from mmclr.train.parts import Parts
from mmclr.train.run import EvaluationConfig
from mmclr.train.step import MODEL

FAULTS = (UserError, OSError, MemoryError, torch.OutOfMemoryError)  # of a set or a machine, and not of ours


class Evaluations:
    """The evaluations of one run; `tree` is the config's `evaluate`."""

    def __init__(self, tree: Mapping[str, Mapping[str, Any]]) -> None:
        self.configs: dict[str, EvaluationConfig] = {}
        self.options: dict[str, list[str]] = {}
        for name, entry in tree.items():
            own = {key: value for key, value in entry.items() if key in ("suite", "every_steps", "every_minutes")}
            self.configs[name] = check(EvaluationConfig, own, f"evaluate.{name}")
            self.options[name] = _arguments({key: value for key, value in entry.items() if key not in own})
        self._done = dict.fromkeys(self.configs, time.monotonic())
        for name in self.configs:
            self._open(name)

    def check_best(self, best: str) -> None:
        """Refuse a `save.best` of an evaluation that is not made."""
        name = best.removeprefix("-").partition("/")[0]
        if best and name not in self.configs:
            raise ConfigError(
                f"save.best: {best} is the metric of an evaluation (EVALUATION/METRIC), and evaluate has none "
                f"{name!r}{nearest(name, self.configs)}"
            )

    def due(self, step: int, last: bool) -> list[str]:
        """Return which evaluations to make now, decided together: clocks differ between ranks."""
        now = time.monotonic()
        found = []
        for name, c in self.configs.items():
            by_step = last or bool(c.every_steps and step % c.every_steps == 0)
            late = bool(c.every_minutes) and now - self._done[name] > 60 * c.every_minutes
            if by_step or (c.every_minutes and parallel.agree(late)):
                found.append(name)
        return found

    def make(self, names: list[str], t: Parts) -> dict[str, float | None]:
        """Return {EVALUATION/METRIC: value}; each result goes to RUN/eval/EVALUATION.json. All ranks must take part.

        What cannot be measured is said and left out: a set that has gone, or weights that are the guard's concern.
        """
        from mmclr.eval.embed.embedder import Embedder

        metrics: dict[str, float | None] = {}
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: self._done.update(dict.fromkeys(names, time.monotonic())))
            if t.average is not None:
                stack.enter_context(t.strategy.swapped_weights(t.average.parts))
            weights = below(MODEL, dict(t.strategy.weights((MODEL,))))
            broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
            if parallel.agree(bool(broken)):
                name = broken[0] if broken else "of another process"
                t.display.say(f"step {t.taken}: no evaluation, the weight {name} is not finite")
                return {}
            model = fill(t.shell, weights).to(t.accelerator.device)
            what = f"{t.run.folder}, step {t.taken}" + (", averaged" if t.average is not None else "")
            embedder = Embedder(what, model, t.tokenizer, device=str(t.accelerator.device))
            for name in names:
                result = self._measure(name, embedder, t)
                if result is not None:
                    metrics.update({f"{name}/{metric}": value for metric, value in result.metrics.items()})
        return metrics

    def _measure(self, name: str, embedder: Any, t: Parts) -> Any:
        """Return the result of one evaluation, None where it failed on any process before it began.

        In the middle of it the others wait for what a failed process would have said, so there all end. Raises
        UserError then; the others hear that this one has gone.
        """
        suite, fault, data = suites.find(self.configs[name].suite), "", None
        args = suite.parser().parse_args(self.options[name])
        try:
            data = suite.open(args)
        except FAULTS as error:
            fault = str(error) or type(error).__name__
        if parallel.agree(bool(fault)):
            said = dict.fromkeys(text for text in parallel.say(fault) if text)  # alike on all machines, or of one
            t.display.say(f"step {t.taken}: the evaluation {name} failed, the run goes on: {'; '.join(said)}")
            return None
        try:
            result = suite.measured(embedder, data, args)
        except FAULTS as error:
            if parallel.world() > 1:
                raise UserError(
                    f"step {t.taken}: the evaluation {name} failed on process {parallel.rank()}, and the others cannot "
                    f"go on without it: {error}; mend that, and the same command goes on from the newest checkpoint"
                ) from error
            t.display.say(f"step {t.taken}: the evaluation {name} failed, the run goes on: {error}")
            return None
        if t.accelerator.is_main_process:
            try:
                result.save(t.run.folder / "eval" / f"{name}.json")
            except (UserError, OSError) as error:
                t.display.say(f"step {t.taken}: the result of {name} cannot be written, the run goes on: {error}")
        return result

    def _open(self, name: str) -> None:
        """Find faults before the first step: an unknown suite or option, a set that is not there."""
        suite = self.configs[name].suite
        if suite not in suites.names():
            raise ConfigError(f"evaluate.{name}.suite: there is none {suite!r}{nearest(suite, suites.names())}")
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                args = suites.find(suite).parser().parse_args(self.options[name])
        except SystemExit:
            fault = said.getvalue().strip().rsplit("error: ", 1)[-1]
            raise ConfigError(f"evaluate.{name}: {fault} (as an option of `mmclr eval {suite}`)") from None
        suites.find(suite).open(args)


def _arguments(options: Mapping[str, Any]) -> list[str]:
    """Return options as a suite's command line has them."""
    words = []
    for name, value in options.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words
