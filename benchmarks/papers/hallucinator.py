"""hallucinator: what the model is sure of is right more often: confidence less accuracy shrinks.

    python benchmarks/papers/hallucinator.py

On the test part, each pair against 255 others. The control has the further positives at weight 0.
"""

from study import Claim, Study, in_place_of_clip

NAME = "hallucinator"
STUDY = Study(
    NAME,
    "Hallucination Improves ... Representation Learning (arXiv 2307.12168)",
    {
        "clip": {"objectives": {"clip": {}}},
        NAME: in_place_of_clip(NAME),
        "weight 0": in_place_of_clip(NAME, {"extra": 0.0}),
    },
    [Claim("overconfidence", False, "confidence less accuracy, in batches of 256, shrinks")],
    ["loss"],
    strengths={
        f"{extra}, {lam}": {"objectives": {NAME: {"extra": extra, "lam_max": lam}}}
        for extra, lam in ((0.5, 1.0), (1.0, 1.0), (1.0, 0.5))
    },
)

if __name__ == "__main__":
    STUDY.main()
