"""Costs of a step of each ready config beside plain InfoNCE: measured by benchmarks/papers.py, kept in costs.json.

A row is shown with a mark as soon as the config, or the code of its objectives, is another than when it was measured.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from mmclr.config import find
from mmclr.losses.objective import Objective
from mmclr.losses.weighted_sum import build_terms
from mmclr.losses.with_options import WithOptions
from mmclr.papers.formula import formula
from mmclr.storage import yaml_text

DATA = Path(__file__).parent / "costs.json"
HEAD = """## What they cost

Time of a training step, and memory of the whole process beyond that before the first step, as multiples of those of
`papers/clip.yaml`; measured on {device} with images of 32 px, batches of {batch} and the small towers of the preset
`icons`, beside which heads, views and teachers weigh far more than beside large ones (`benchmarks/papers.py`).

| config | time | memory |
|---|--:|--:|
"""


def configs() -> list[Path]:
    """Return the ready configs, plain InfoNCE first."""
    folder = find("base.yaml").parent / "papers"
    return sorted(folder.glob("*.yaml"), key=lambda path: (path.stem != "clip", path.stem))


def fingerprint(path: Path) -> str:
    """Return a hash of what a config says itself, its base aside, and of the formulas of its objectives and heads."""
    own = yaml_text.parse(path.read_text(encoding="utf-8"))
    own["objectives"] = {name: term for name, term in own["objectives"].items() if term is not None}
    own.pop("base", None)
    digest = hashlib.sha256(yaml.dump(own, sort_keys=True).encode())
    for term in build_terms(own["objectives"]).values():
        for part in _parts(term.objective):
            digest.update(formula(inspect.getsource(sys.modules[type(part).__module__])).encode())
    return digest.hexdigest()[:12]


def _parts(o: Objective | WithOptions) -> tuple[Any, ...]:
    """Return what of a term has a formula of its own."""
    if not isinstance(o, WithOptions):
        return (o,)
    return (o.objective, *([] if o.how is None else [o.how]), *o.reweight)


def stale() -> list[str]:
    """Return the stems of configs that were not measured, or are another than they were then."""
    rows = json.loads(DATA.read_text(encoding="utf-8"))["rows"]
    return [path.stem for path in configs() if rows.get(path.stem, {}).get("of") != fingerprint(path)]


def table() -> str:
    """Return the part of PAPERS.md that says what each config costs."""
    known = json.loads(DATA.read_text(encoding="utf-8"))
    return HEAD.format(**known["about"]) + "".join(_row(path, known["rows"].get(path.stem)) for path in configs())


def _row(path: Path, row: dict[str, float | str] | None) -> str:
    name = f"[{path.stem}](configs/papers/{path.name})"
    if row is None:
        return f"| {name} | not measured | |\n"
    mark = "" if row["of"] == fingerprint(path) else " (before its last change)"
    return f"| {name} | {row['time']:.2f}{mark} | {row['memory']:.2f} |\n"
