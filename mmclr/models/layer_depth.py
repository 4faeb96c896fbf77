"""How deep in its tower a weight lies, told from its name: ours, transformers', open_clip's and timm's."""

from __future__ import annotations

import re
from collections.abc import Sequence

BLOCK = re.compile(r"(?:^|\.)(?:layers|layer|blocks|resblocks|stages|h)\.?(\d+)\.")


def depths(names: Sequence[str]) -> dict[str, int]:
    """Return each of a tower's weights' depths: 0 before the blocks, i in the i-th of n, n + 1 behind them.

    `names` are in the order of their modules. The outermost numbered list counts.
    """
    found = [BLOCK.search(name) for name in names]
    numbers = sorted({int(match[1]) for match in found if match})
    first = next((i for i, match in enumerate(found) if match), len(names))
    behind = len(numbers) + 1
    return {
        name: 1 + numbers.index(int(match[1])) if match else 0 if i < first and not _projects(name) else behind
        for i, (name, match) in enumerate(zip(names, found))
    }


def _projects(name: str) -> bool:
    """Whether this is open_clip's last layer, which it keeps beside the embeddings."""
    return name.rpartition(".")[2] in ("proj", "text_projection")
