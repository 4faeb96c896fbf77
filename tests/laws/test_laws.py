"""Every objective in every setting keeps every law."""

import pytest

from mmclr.laws import LAWS, Case
from mmclr.laws.processes import blank_on_ranks
from tests.laws.objectives import CASES

# What an objective of ours does not keep, and why.
NOBODY = "no two random captions are within the default window of each other, so none are wrongly alike"
EXEMPT = {
    ("derivative", "cacr"): "its constant weights are made in a torch.autograd.Function, which stops them itself",
    ("finite", "conr"): NOBODY,
    ("names_used", "conr"): NOBODY,
    ("names_used", "sepclr"): "neither of its two batches has a sample in domain 1, the default target",
}
ALL = [Case(key, fields) for key, fields in CASES]


def pairs(of_processes):
    """Return a parameter for each law and each case that it applies to."""
    found = []
    for law in LAWS.values():
        for case in ALL:
            if bool(law.worlds) != of_processes or (law.once and case.fields) or not law.applies(case):
                continue
            if (law.name, str(case)) not in EXEMPT:
                worlds = law.worlds or ((),)
                found += [pytest.param(law, case, *[w][: bool(w)], id=f"{law.name}-{case}-{w}") for w in worlds]
    return found


@pytest.mark.parametrize(("law", "case"), pairs(of_processes=False))
def test_one_process(law, case):
    law.check(case)


@pytest.mark.dist
@pytest.mark.parametrize(("law", "case", "world"), pairs(of_processes=True))
def test_processes(law, case, world):
    law.check(case, world)


@pytest.mark.dist
@pytest.mark.parametrize(
    "key", ["cl2l", "conr_target", "ctvis", "hydra", "isogclr", "mlcd", "swav", "whitened_cse", "wscol"]
)
def test_blank_rows_on_four_ranks_change_nothing(key):
    """Half of the ranks have nothing else, then two have some."""
    blank_on_ranks(Case(key), 4, [(*range(4), *range(8, 12)), (2, 6, 7, 8)])
