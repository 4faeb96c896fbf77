"""A training of the demo: one that is stopped ends the demo too, since what follows would show half a model."""

from __future__ import annotations

from pathlib import Path

from mmclr.train.run import RunConfig


def train(run: RunConfig) -> Path:
    """Train to the last step and return the checkpoint; a run that a signal stopped ends the demo with its status."""
    from mmclr.train import trainer
    from mmclr.train.processes import signals

    folder, stopped = trainer.train_until_stopped(run)
    if stopped:
        raise SystemExit(signals.status(stopped))
    return folder
