"""Trackers of curves besides log.jsonl: TensorBoard, W&B and whatever else accelerate knows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import ProjectConfiguration

from mmclr.config import ConfigError, nearest, to_tree
from mmclr.display.secrets import redact_tree
from mmclr.train.run import RunConfig


def choose(wanted: str) -> list[str]:
    """Return the names of `wanted`: auto (TensorBoard where it is installed), none, or names joined by commas."""
    there = [str(kind) for kind in get_available_trackers()]
    if wanted in ("auto", "none"):
        return [name for name in ("tensorboard",) if wanted == "auto" and name in there]
    names = [name.strip() for name in wanted.split(",")]
    known = [str(kind) for kind in LOGGER_TYPE_TO_CLASS]
    for name in names:
        if name not in known:
            raise ConfigError(f"trackers: there is no {name!r}{nearest(name, known)}")
        if name not in there:
            raise ConfigError(f"trackers: {name} is not installed: pip install {name}, or write trackers=none")
    return names


def settings(run: RunConfig) -> dict[str, Any]:
    """Return what the Accelerator must know of them."""
    place = ProjectConfiguration(project_dir=str(run.folder), logging_dir=str(run.folder / "tensorboard"))
    return {"log_with": choose(run.trackers) or None, "project_config": place}


def start(accelerator: Accelerator, run: RunConfig) -> None:
    """Start the trackers that the accelerator was made with; a run that goes on continues its curves."""
    number = hashlib.sha256(str(run.folder.resolve()).encode()).hexdigest()[:16]
    accelerator.init_trackers(
        "mmclr", dict(_flat(redact_tree(to_tree(run)))), {"wandb": {"name": run.name, "id": number, "resume": "allow"}}
    )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the leaves of a config by their dotted paths, as what every tracker takes."""
    leaves: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves += _flat(value, f"{prefix}{key}.")
        else:
            leaves.append((prefix + key, value if isinstance(value, (bool, int, float, str)) else str(value)))
    return leaves
