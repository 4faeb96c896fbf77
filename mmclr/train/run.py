"""A run: everything that its config says, checked before anything is touched."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Lt

from mmclr import plugins
from mmclr.config import config
from mmclr.data.stream.loader import DataConfig
from mmclr.losses.ramp import Ramp, Weight
from mmclr.models.config import ModelConfig
from mmclr.models.freeze import LockConfig
from mmclr.models.init import InitConfig
from mmclr.models.resolve import resolve
from mmclr.train.averages import AverageConfig
from mmclr.train.nonfinite import GuardConfig
from mmclr.train.optimizer import OptimConfig


@config
class SaveConfig:
    """Times at which checkpoints are written; one is always written at the end and when the run is asked to stop."""

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


@config
class RunConfig:
    """One training run."""

    alternatives: ClassVar = (("steps", "epochs", "samples"),)  # a config's wins over its base's

    name: str = "run"
    out: str = ""  # the run's folder; empty: runs/NAME
    seed: Annotated[int, Ge(0), Lt(2**32)] = 0
    plugins: list[str] = dataclasses.field(default_factory=list)  # modules and files (.py) with parts of one's own
    data: DataConfig
    tokenizer: str = "clip"  # "clip", or a folder with tokenizer.json
    model: ModelConfig
    init: InitConfig = InitConfig()
    lock: LockConfig = LockConfig()
    objectives: dict[str, dict[str, Any] | None] = dataclasses.field(default_factory=lambda: {"clip": {}})
    providers: dict[str, dict[str, Any] | None] = dataclasses.field(default_factory=dict)  # {name: {use: key, ..}}
    teacher: str = ""  # model folder of frozen features; empty: the model's own, without their gradient
    ema: Weight = Ramp(first=0.996, last=1.0, shape="cosine")  # momentum of teachers that follow the model, 0 to 1
    optim: OptimConfig = OptimConfig()
    average: AverageConfig = AverageConfig()
    steps: Annotated[int, Ge(1)] | None = None  # how long: exactly one of steps, epochs, samples
    epochs: Annotated[float, Gt(0)] | None = None
    samples: Annotated[int, Ge(1)] | None = None
    micro_batch: Annotated[int, Ge(0)] = 0  # pairs per process in memory at once, same gradient; 0: all of them
    activation_checkpointing: bool = False  # blocks compute again in the backward what they would else keep
    patch_dropout: Weight = Ramp(first=0.0, last=0.0)  # share of patches left out in training; a ramp may end at 0
    compile: bool = False  # torch.compile of the blocks of all towers
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"  # auto: bf16 where the device is fast at it
    save: SaveConfig = SaveConfig()
    guard: GuardConfig = GuardConfig()
    evaluate: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)  # {name: {suite, data, every_..}}
    log_every: Annotated[int, Ge(1)] = 10  # steps
    diagnose_every: Annotated[int, Ge(0)] = 100  # steps after which the batch's geometry is logged; 0: never
    threads: Annotated[int, Ge(1)] | Literal["auto"] = "auto"  # of a process's steps on a CPU; auto: tried at the start
    trackers: str = "auto"  # auto: TensorBoard where it is installed; none; or tensorboard, wandb, ... by commas
    timeout: Annotated[float, Gt(0)] = 10.0  # minutes that a process waits for the others before it gives up
    resume: str = "auto"  # auto: the run's newest checkpoint; never; or a checkpoint's folder

    def __post_init__(self) -> None:
        given = [name for name in ("steps", "epochs", "samples") if getattr(self, name) is not None]
        if "://" in self.out:
            raise ValueError(f"out: {self.out} is no folder of this machine; set save.remote to it, and out to one")
        if not _is_file_name(self.name):
            raise ValueError(f"name: {self.name!r} is no name of a folder; set out to a path")
        if strange := [name for name in self.evaluate if not _is_file_name(name)]:
            raise ValueError(f"evaluate: {strange[0]!r} is no name of a file, and its results lie in eval/NAME.json")
        if len(given) != 1:
            raise ValueError(f"set exactly one of steps, epochs, samples (set: {', '.join(given) or 'none'})")
        if not all(0 <= momentum <= 1 for momentum in (self.ema.first, self.ema.last)):
            raise ValueError(f"ema: a momentum is 0 to 1, not {self.ema.first} to {self.ema.last}")
        if not all(0 <= share < 1 for share in (self.patch_dropout.first, self.patch_dropout.last)):
            raise ValueError("patch_dropout: a share is at least 0 and below 1")
        if self.model.image.scatter and max(self.patch_dropout.first, self.patch_dropout.last):
            raise ValueError("patch_dropout: model.image.scatter has no patches to leave out; set patch_dropout=0")

    @staticmethod
    def beside(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Return the tree of a file in `folder` with whole paths of the plugins that lie there."""
        names: Any = tree.get("plugins")
        return {**tree, "plugins": plugins.located(names, folder)} if _are_texts(names) else tree

    @classmethod
    def prepared(cls, tree: dict[str, Any]) -> dict[str, Any]:
        """Load the plugins that a config names, before it is checked; their paths are stored whole."""
        tree = cls.beside(tree, Path.cwd())
        if _are_texts(named := tree.get("plugins", [])):
            tree = {**tree, "plugins": list(dict.fromkeys([*named, *plugins.GIVEN]))}
            plugins.load(tree["plugins"])
        return tree

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.out or f"runs/{self.name}")

    def resolved(self) -> RunConfig:
        """Return the run with what its model leaves to folders read from there, which may download them.

        The model is told `data.intensity`, so that whoever has it knows how its numbers are read.
        """
        model, intensity = resolve(self.model), self.data.intensity
        if intensity is not None and model.image.intensity != (tree := intensity.tree()):
            model = dataclasses.replace(model, image=dataclasses.replace(model.image, intensity=tree))
        return self if model is self.model else dataclasses.replace(self, model=model)

    def total_steps(self, samples_per_epoch: int) -> int:
        """Return the number of optimizer steps."""
        if self.steps is not None:
            return self.steps
        if self.epochs is not None and self.data.tail == "pad":
            return max(1, round(self.epochs * math.ceil(samples_per_epoch / self.data.batch)))
        samples = self.samples if self.samples is not None else round((self.epochs or 0) * samples_per_epoch)
        return max(1, samples // self.data.batch)


def _is_file_name(text: str) -> bool:
    """Whether a file or folder beside others can be called so."""
    return text not in ("", ".", "..") and not {"/", "\\"} & set(text) and len(text.encode()) <= 200


def _are_texts(names: object) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)
