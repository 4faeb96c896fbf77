"""conr: numbers that are rare in the training are told better: few-shot error of the weight of lines.

    python benchmarks/papers/conr.py

Phosphor's icons, of which thin and bold are cut to a tenth; names of the test were never seen. Fewer than 200 training
icons of a weight are few here. The control is told weights of other icons.
"""

from pathlib import Path

import material
from study import CLIP, SHUFFLED, Claim, Study, beside_clip

NAME = "conr_target"
CUT = (100, 700)  # weights of which one icon in ten is trained on


def shards(data: Path, out: Path) -> dict[str, str]:
    """Return patterns of the icons; json:shuffled is the weight of another one."""
    found = material.icons(data, out, lambda told, number: told["stroke"] not in CUT or number % 70 < 7)
    return material.shuffle(found, out / "icons-shuffled", "stroke")


def settings(field: str) -> dict:
    """Return the parts of a config that name the target, in hundreds."""
    return {"data": {"fields": {"target": field}}}


STUDY = Study(
    "conr",
    "ConR (arXiv 2309.06651)",
    {
        "clip": CLIP,
        NAME: beside_clip(NAME, {"window": 50.0, "rarity": "inverse"}, **settings("json:stroke")),
        "weight 0": beside_clip(NAME, {"window": 50.0, "weight": 0.0}, **settings("json:stroke")),
        SHUFFLED: beside_clip(NAME, {"window": 50.0, "rarity": "inverse"}, **settings("json:shuffled")),
    },
    [
        Claim("mae_few", False, "the error on weights of which few were trained on falls"),
        Claim("mae", False, "the error falls"),
        Claim("spearman", True, "the rank correlation rises"),
    ],
    ["regression: --train {train} --target json:stroke --few 200 --many 400"],
    strengths={
        f"{weight}, {e}": {"objectives": {NAME: {"weight": weight, "e": e}}}
        for weight, e in ((0.1, 0.01), (0.3, 0.01), (0.3, 0.002))
    },
    samples=30_720,
    enough=0.0,  # captions do not say the weight; clip's recall among icons of one name in four weights is no measure
    note="R@10 cannot reach 0.30: four icons share each caption",
)

if __name__ == "__main__":
    STUDY.main(shards)
