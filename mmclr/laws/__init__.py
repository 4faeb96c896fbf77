"""The laws that every objective keeps, whatever its paper: `mmclr check FILE` runs them, and so do the tests."""

from mmclr.laws import batches, composition, heads, processes, state, values, words
from mmclr.laws.case import Case
from mmclr.laws.law import Broken, Law

__all__ = ["LAWS", "Broken", "Case", "Law"]

LAWS: dict[str, Law] = {  # in the order in which they are checked
    found.name: found
    for room in (words, values, batches, state, composition, heads, processes)
    for found in vars(room).values()
    if isinstance(found, Law)
}
