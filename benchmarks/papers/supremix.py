"""supremix: numbers are told in order: rank correlation of the weight of lines.

    python benchmarks/papers/supremix.py

Phosphor's icons, all weights; names of the test were never seen. The control is told weights of other icons.
"""

from pathlib import Path

import material
from study import CLIP, SHUFFLED, Claim, Study, beside_clip

NAME = "supremix"


def shards(data: Path, out: Path) -> dict[str, str]:
    """Return patterns of the icons; json:shuffled is the weight of another one."""
    return material.shuffle(
        material.icons(data, out / "even", lambda told, number: True), out / "even-shuffled", "stroke"
    )


def config(field: str, weight: float) -> dict:
    """Return clip with supremix beside it, told this field."""
    how = {"weight": weight, "magnify": "none"}
    return beside_clip(NAME, how, data={"fields": {"target": field}})


STUDY = Study(
    NAME,
    "Mixup Your Own Pairs (arXiv 2309.16633)",
    {
        "clip": CLIP,
        NAME: config("json:stroke", 0.1),
        "weight 0": config("json:stroke", 0.0),
        SHUFFLED: config("json:shuffled", 0.1),
    },
    [
        Claim("spearman", True, "the rank correlation of the weight of lines rises"),
        Claim("mae", False, "its error falls"),
    ],
    ["regression: --train {train} --target json:stroke"],
    strengths={str(weight): {"objectives": {NAME: {"weight": weight}}} for weight in (0.1, 0.3, 1.0)},
    samples=30_720,
    enough=0.0,
    note="R@10 cannot reach 0.30: four icons share each caption",
)

if __name__ == "__main__":
    STUDY.main(shards)
