"""hydra: positives of other classes spread the features over more directions.

    python benchmarks/papers/hydra.py

Classes are picto's 99 subgroups, numbered by `mmclr data label`; the control is told shuffled ones.
"""

from pathlib import Path

import material
from mmclr.data_tools.commands.curate import label
from study import CLIP, SHUFFLED, Claim, Study, beside_clip

NAME = "hydra"


def shards(data: Path, out: Path) -> dict[str, str]:
    """Return patterns of picto, whose training parts have columns of classes, own and shuffled."""
    found = material.with_shuffled(data, out, "subgroup")
    for part in ("train", "rest"):
        for column, field in (("label", "json:subgroup"), ("other", "json:shuffled")):
            label.main([found[part], field, "--name", column])
    return found


STUDY = Study(
    NAME,
    "Rethinking Positive Pairs (arXiv 2410.18200)",
    {
        "clip": CLIP,
        NAME: beside_clip(NAME, data={"label": "column:label"}),
        "weight 0": beside_clip(NAME, {"weight": 0.0}, data={"label": "column:label"}),
        SHUFFLED: beside_clip(NAME, data={"label": "column:other"}),
    },
    [Claim("image_effective_rank", True, "directions in use by images rise")],
    ["geometry"],
    strengths={str(weight): {"objectives": {NAME: {"weight": weight}}} for weight in (0.03, 0.1, 0.3)},
)

if __name__ == "__main__":
    STUDY.main(shards)
