"""feature_transformation: scores of pairs fall, and those of wrong pairs spread otherwise.

    python benchmarks/papers/feature_transformation.py

As the paper plots them, here on the test part. The control begins at the end of the training, and so never.
"""

from study import Claim, Study, in_place_of_clip

NAME = "feature_transformation"
STUDY = Study(
    NAME,
    "Visualizing Feature Transformation (arXiv 2108.02982)",
    {
        "clip": {"objectives": {"clip": {}}},
        NAME: in_place_of_clip(NAME),
        "never": in_place_of_clip(NAME, {"begin": 1.0}),
    },
    [
        Claim("matched_cosine", False, "the cosine of pairs falls"),
        Claim("unmatched_variance", True, "the variance of wrong pairs' cosines changes (rises)"),
    ],
    ["geometry"],
    strengths={
        "2.0, 1.6": {"objectives": {NAME: {"a_pos": 2.0, "a_neg": 1.6}}},
        "0.6, 1.6": {"objectives": {NAME: {"a_pos": 0.6, "a_neg": 1.6}}},
        "2.0, 5.0": {"objectives": {NAME: {"a_pos": 2.0, "a_neg": 5.0}}},
    },
)

if __name__ == "__main__":
    STUDY.main()
