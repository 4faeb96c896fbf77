"""The result of an evaluation: numbers, their intervals, and the data that they were measured on.

The JSON has CLIP_benchmark's keys (dataset, model, pretrained, task, metrics, language), so its tools read it;
what we add stands beside them. A number that cannot be given is null with a note, never NaN. What each sample
contributed is kept next to it in one .npz, from which `mmclr eval compare` pairs two models.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from mmclr.eval.figures.examples import KIND, save
from mmclr.eval.metrics.measurement import Measurement
from rich.table import Table
from rich.text import Text

from mmclr.data.samples.skipped import KEPT, REASONS
from mmclr.display.console import Console
from mmclr.display.secrets import redact, redact_tree
from mmclr.display.terminal import plain
from mmclr.errors import UserError
from mmclr.storage import written

PACKAGES = ("mmclr", "torch", "torchvision", "transformers", "open_clip_torch", "numpy", "pillow")
EARLIER = {"pictures": "images", "training_pictures": "training_images"}  # hashes in results of 0.1, and by now
BESIDE = {"measurements", "examples"}  # kept in files of their own


@cache
def _installed() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def installed() -> dict[str, str]:
    """Return the versions of what computes and decodes here."""
    return dict(_installed())


@dataclass(frozen=True)
class Result:
    """One model on one set in one task."""

    dataset: str
    model: str
    task: str  # CLIP_benchmark's name: zeroshot_classification, zeroshot_retrieval, ...
    metrics: dict[str, float | None]
    pretrained: str = ""
    language: str = "en"
    n: dict[str, int] = field(default_factory=dict)  # metric -> independent units
    ci95: dict[str, list[float] | None] = field(default_factory=dict)  # metric -> [low, high]
    ci95_method: dict[str, str] = field(default_factory=dict)
    ties: dict[str, int] = field(default_factory=dict)  # queries whose right answer ties with a wrong one
    sizes: dict[str, int] = field(default_factory=dict)  # images, captions, classes, templates
    skipped: dict[str, int] = field(default_factory=dict)  # samples left out, by reason (data.ledger.REASONS)
    faults: list[str] = field(default_factory=list)  # the first few of each reason: file, sample, what
    notes: list[str] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)  # model, data, prompts, transform
    dtype: str = "float32"
    head: str = "post"  # image features after the projection; pre: before it
    seconds: float | None = None
    versions: dict[str, str] = field(default_factory=installed)
    measurements: dict[str, Measurement] = field(default_factory=dict, repr=False, compare=False)
    examples: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, measured: Mapping[str, Measurement | float | None], **about: Any) -> Result:
        """Make a Result; a plain number has no interval, None is a metric that this set does not have."""
        known = {name: m for name, m in measured.items() if isinstance(m, Measurement)}
        return cls(
            metrics={name: m.mean if isinstance(m, Measurement) else m for name, m in measured.items()},
            n={name: m.n for name, m in known.items()},
            ci95={name: list(i) if (i := m.interval()) else None for name, m in known.items()},
            ci95_method={name: m.method for name, m in known.items()},
            measurements=known,
            **about,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON file holds."""
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in BESIDE}
        return dict(redact_tree(kept))  # a set's name may be an address

    def save(self, path: str | Path) -> Path:
        """Write the JSON at `path`; beside it NAME.samples.npz (what each sample gave) and NAME.examples.json."""
        path = Path(path)
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        check(path)
        written.write(path, text + "\n", KIND)
        if self.measurements:
            with written.staged(path.with_suffix(".samples.npz"), KIND) as partial, open(partial, "wb") as file:
                np.savez_compressed(file, **_arrays(self.measurements))
        if self.examples:
            save(path.with_suffix(".examples.json"), self.examples)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read a result written by `save` or by CLIP_benchmark; samples are read where the file is there."""
        try:
            tree = redact_tree(json.loads(Path(path).read_text(encoding="utf-8")))  # an older one may hold secrets
            known = {f.name for f in dataclasses.fields(cls)} - BESIDE
            kept = {key: value for key, value in tree.items() if key in known}
            kept["hashes"] = {EARLIER.get(key, key): value for key, value in kept.get("hashes", {}).items()}
            return cls(**kept, measurements=_read_samples(Path(path).with_suffix(".samples.npz")))
        except FileNotFoundError:
            raise UserError(f"{path}: no such result file") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a result of mmclr eval or CLIP_benchmark ({error})") from None

    def show(self, console: Console | None = None) -> None:
        """Print a table of the metrics with their intervals."""
        console = console or Console()
        console.print(
            Text.assemble((plain(self.task), "bold"), plain(redact(f" of {self.model} on {self.dataset}"))),
            soft_wrap=True,
        )
        table = Table()
        table.add_column("metric")
        for head in ("value", "95 % interval", "n"):
            table.add_column(head, justify="right")
        for name, value in self.metrics.items():
            interval = self.ci95.get(name)
            span = f"{interval[0]:.4f} – {interval[1]:.4f}" if interval else ""
            table.add_row(name, "–" if value is None else f"{value:.4f}", span, str(self.n.get(name, "")))
        console.print(table)
        for name, count in self.ties.items():
            if count:
                console.print(
                    f"ties: {count} {name} have a wrong answer with exactly the right one's score", soft_wrap=True
                )
        for reason, count in self.skipped.items():
            what = "kept" if reason in KEPT else "skipped"
            console.print(f"{what}: {count} samples ({REASONS.get(reason, reason)})", soft_wrap=True)
        for fault in self.faults:
            console.print(f"  {fault}", soft_wrap=True, markup=False, highlight=False)
        for note in self.notes:
            console.print(f"note: {note}", soft_wrap=True)


def check(path: str | Path) -> None:
    """Raise UserError where a result, or what lies beside it, would replace what is not a result that we wrote."""
    for suffix in ("", ".samples.npz", ".examples.json"):
        written.check(Path(path).with_suffix(suffix) if suffix else path, KIND)


def _arrays(measurements: Mapping[str, Measurement]) -> dict[str, Any]:
    """Pack measurements: 0/1 values as uint8, others as float64, ids as int64; names as METRIC|FIELD."""
    out: dict[str, np.ndarray] = {}
    for name, m in measurements.items():
        whole = np.isin(m.values, (0, 1)).all()
        out[f"{name}|values"] = m.values.astype(np.uint8) if whole else m.values
        for part in ("clusters", "strata"):
            if getattr(m, part) is not None:
                out[f"{name}|{part}"] = np.asarray(getattr(m, part))
        out[f"{name}|unit"] = np.asarray(m.unit)
        out[f"{name}|share"] = np.asarray(m.share)
    return out


def _read_samples(path: Path) -> dict[str, Measurement]:
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        parts: dict[str, dict[str, Any]] = {}
        for key in arrays:
            name, part = key.rsplit("|", 1)
            value = arrays[key]
            parts.setdefault(name, {})[part] = value if value.ndim else value.item()
    return {name: Measurement(**fields) for name, fields in parts.items()}
