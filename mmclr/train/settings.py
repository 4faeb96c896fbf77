"""The parts of a run's config that belong to no one module of it."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from mmclr.config import config


@config
class SaveConfig:
    """When checkpoints are written; one is always written at the end and when the run is asked to stop."""

    every_steps: Annotated[int, Ge(0)] = 0  # 0: not by steps
    every_minutes: Annotated[float, Ge(0)] = 15.0  # 0: not by time
    keep: Annotated[int, Ge(0)] = 2  # newest checkpoints that stay; 0: all
    remote: str = ""  # folder of fsspec (s3://bucket/run) to which checkpoints are copied, and from which to go on
    best: str = ""  # EVALUATION/METRIC whose best checkpoint stays too; with a - before it the lowest is the best


@config
class EvaluationConfig:
    """An evaluation during training, besides the options of its suite; one is always made at the end."""

    suite: str = "retrieval"  # as in `mmclr eval SUITE`
    every_steps: Annotated[int, Ge(0)] = 0  # 0: not by steps
    every_minutes: Annotated[float, Ge(0)] = 0.0  # 0: not by time
