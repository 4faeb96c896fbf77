"""Counts of faults of several ranks, added up."""

import pytest

from mmclr import parallel
from mmclr.data.samples.skipped import Entry, Ledger
from tests import ranks


def counted(entries):
    ledger = Ledger()
    ledger.add(entries[parallel.rank()])
    return ledger.state_dict()


@pytest.mark.dist
def test_ledgers_of_ranks_are_summed():
    entries = [
        [Entry("a.tar", n, "k", reason, "") for n in range(count)]
        for reason, count in (("bad_image", 3), ("bad_text", 1))
    ]
    entries[1].append(Entry("b.tar", 0, "k", "bad_image", ""))
    assert ranks.run(2, counted, entries) == [{"bad_text": 1, "bad_image": 4}] * 2
