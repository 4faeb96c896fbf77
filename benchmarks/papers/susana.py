"""susana: classes are held apart: the ICNN score of subgroups and one-shot accuracy rise.

    python benchmarks/papers/susana.py

Classes are picto's subgroups; the control is told subgroups that were dealt to other samples.
"""

from functools import partial

from material import with_shuffled
from study import CLIP, SHUFFLED, Claim, Study, beside_clip

NAME = "susana_label"
OWN, OTHER = {"label": "json:subgroup"}, {"label": "json:shuffled"}
STUDY = Study(
    "susana",
    "SuSana Distancia (arXiv 2305.09062)",
    {
        "clip": CLIP,
        NAME: beside_clip(NAME, data=OWN),
        "weight 0": beside_clip(NAME, {"weight": 0.0}, data=OWN),
        SHUFFLED: beside_clip(NAME, data=OTHER),
    },
    [
        Claim("icnn", True, "ICNN of the images by subgroup rises"),
        Claim("prototype_acc1", True, "5-way 1-shot accuracy by subgroup rises"),
    ],
    [
        "separability: --label json:subgroup",
        "few_shot: --label json:subgroup --ways 5 --shots 1 --queries 5",
    ],
    strengths={str(weight): {"objectives": {NAME: {"weight": weight}}} for weight in (0.03, 0.1, 0.3)},
)

if __name__ == "__main__":
    STUDY.main(partial(with_shuffled, field="subgroup"))
