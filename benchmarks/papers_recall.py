"""Recall@10 of ready configs beside plain InfoNCE's, from LOG.md's tables of three seeds: what warnings rest on.

    python benchmarks/papers_recall.py

writes mmclr/papers/recalls.json. The tables are those of `mmclr compare`, under the headings that say "three seeds".
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from mmclr.papers import recalls

LOG = Path(__file__).parent.parent / "LOG.md"


def tables(text: str) -> dict[str, dict[str, float]]:
    """Return {heading: {config: recall@10}} of the first table below each heading of three seeds."""
    found = {}
    for part in re.split(r"^## ", text, flags=re.M):
        heading, _, body = part.partition("\n")
        first = body.partition("| config | recall@10 |")[2].partition("\n\n")[0]
        if "three seeds" in heading and first:
            found[heading.partition(" · ")[2]] = dict(_rows(first))
    return found


def _rows(table: str) -> list[tuple[str, float]]:
    return [(name, float(recall)) for name, recall in re.findall(r"^\| (\w+) \| (\d\.\d+) \|", table, flags=re.M)]


def main() -> None:
    """Write the file and say which configs get a warning."""
    found = tables(LOG.read_text(encoding="utf-8"))
    recalls.DATA.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    names = sorted({name for rows in found.values() for name in rows})
    print(json.dumps({name: recalls.warning(name) for name in names if recalls.warning(name)}))


if __name__ == "__main__":
    main()
