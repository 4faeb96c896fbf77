"""mclrec: learnt augmenters help where batches are small: recall at batches of 64, and of 512.

    python benchmarks/papers/mclrec.py

The gain is predicted at 64; 512 is the control where none is. Two studies, results/mclrec_64.json and mclrec_512.json.
"""

from study import RECALL, Claim, Study, in_place_of_clip

NAME = "mclrec"


def study(batch: int) -> Study:
    """Return the study at one size of batch."""
    data = {"batch": batch}
    return Study(
        f"{NAME}_{batch}",
        "MCLRec (arXiv 2304.07763)",
        {
            "clip": {"objectives": {"clip": {}}, "data": data},
            NAME: in_place_of_clip(NAME, data=data),
            "weight 0": in_place_of_clip(NAME, {"beta": 0.0}, data=data),
        },
        [Claim(RECALL, True, f"R@10 rises at batches of {batch}")],
        [],
        strengths={str(beta): {"objectives": {NAME: {"beta": beta}}} for beta in (0.05, 0.1, 0.2)},
    )


if __name__ == "__main__":
    for size in (64, 512):
        study(size).main()
