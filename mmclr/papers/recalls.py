"""Warnings at ready configs whose recall was measured far below plain InfoNCE's, from recalls.json.

benchmarks/papers_recall.py writes that file from the tables of LOG.md.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

DATA = Path(__file__).parent / "recalls.json"
FAR = 0.5  # a share of plain InfoNCE's recall; a config that had less gets a warning


@functools.cache
def _tables() -> dict[str, dict[str, float]]:
    return json.loads(DATA.read_text(encoding="utf-8")) if DATA.is_file() else {}


def warning(config: str) -> str:
    """Return a sentence where configs/papers/CONFIG.yaml was measured far below plain InfoNCE, else ""."""
    rows = {where: table for where, table in _tables().items() if config in table and "clip" in table}
    poor = [table for table in rows.values() if table[config] < FAR * table["clip"]]
    if not poor:
        return ""
    worst = min(poor, key=lambda table: table[config] / table["clip"])
    return (
        f"its ready config had a recall@10 of {worst[config]:.3f} where plain InfoNCE had {worst['clip']:.3f} after "
        "the same short training (LOG.md, three seeds); compare the two on your own data (mmclr compare) before you "
        "rely on it"
    )
