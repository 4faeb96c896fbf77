"""All laws, in the order in which they are checked."""

from __future__ import annotations

from mmclr.laws import batches, composition, heads, precision, processes, state, values, words
from mmclr.laws.law import Law

LAWS: dict[str, Law] = {
    found.name: found
    for room in (words, values, batches, precision, state, composition, heads, processes)
    for found in vars(room).values()
    if isinstance(found, Law)
}
