"""A format of exports as the card and `mmclr export verify` know it: `FORMAT` of its command's module."""

from __future__ import annotations

from dataclasses import dataclass

WIDE = "config.json"  # of transformers; folders of other formats may have such a file, too


@dataclass(frozen=True)
class Format:
    """The file by which a folder's format is known, and the card's words on using it."""

    file: str  # that every folder of the format has, and no other's but of WIDE
    library: str  # library_name on the Hub
    use: str  # code in Markdown with slots {name}, {captions}, {image}, {channels}, {pad}, {head}
    arrays: str = ""  # the same of a model of arrays
    captioner: bool = False  # whether a captioner is exported along with the encoders
    tolerance: float = 1e-5  # largest difference of unit-norm features, computed in float32, and of pixels
