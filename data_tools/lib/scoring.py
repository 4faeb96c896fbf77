"""Numbers of a scorer for the samples of shards: columns, one shard after the other, so that an ended call goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmclr.data import columns
from mmclr.data.columns import Kind
from mmclr.data.samples.captions import Chooser
from mmclr.data.samples.skipped import Fault, Ledger
from mmclr.data.shards.shards import Shards
from mmclr.data.stream.workers import run_ahead
from mmclr.scorers.scorer import Scorer, scores

KIND = Kind("float32")
Pairs = tuple[Any, list[str]]  # of one sample


class Scoring:
    """A scorer at work: it reads samples in batches, and writes the mean over the captions of each."""

    def __init__(self, scorer: Scorer, shards: Shards, chooser: Chooser | None, batch: int, ledger: Ledger) -> None:
        self.scorer, self.shards, self.chooser, self.batch, self.ledger = scorer, shards, chooser, batch, ledger

    def column(self, which: int, name: str, facts: Mapping[str, Any], advance: Callable[[int], object]) -> bool:
        """Write the column of a shard; return False where it is there already, made with the same `facts`."""
        index, begin = self.shards.indices[which], sum(map(self._count, range(which)))
        if columns.holds(index, name, facts):
            advance(self._count(which))
            return False
        rows, values = [], []
        for numbers, found in self._scored(range(begin, begin + self._count(which))):
            advance(len(numbers))
            rows += [self.shards.locate(number)[1] for number, _ in found]
            values += [value for _, value in found]
        with columns.write(index, name, KIND, facts) as column:
            column.put(np.array(rows, np.int64), np.array(values, np.float32))
        return True

    def _count(self, which: int) -> int:
        rows = self.shards.rows(which)
        return len(self.shards.indices[which]) if rows is None else len(rows)

    def _scored(self, numbers: range) -> Any:
        """Yield batches: their numbers, and (number, score) of those that could be read."""

        def read(first: int) -> list[tuple[int, Pairs | Fault, list[Fault]]]:
            return [(number, *self._read(number)) for number in numbers[first : first + self.batch]]

        for found in run_ahead(read, range(0, len(numbers), self.batch), workers=0):
            good = [(number, pairs) for number, pairs, _ in found if not isinstance(pairs, Fault)]
            for number, pairs, lost in found:
                faults = [pairs] if isinstance(pairs, Fault) else lost
                self.ledger.add(self.shards.entry(number, fault) for fault in faults)
            values = self._means([pairs for _, pairs in good]) if good else np.empty(0, np.float32)
            yield [number for number, _, _ in found], list(zip([number for number, _ in good], values))

    def _read(self, number: int) -> tuple[Pairs | Fault, list[Fault]]:
        """Return a sample's image and captions, as far as they are wanted, and which captions were lost."""
        lost: list[Fault] = []
        try:
            sample = self.shards.read(number)
            texts = [""]  # so that there is a pair
            if self.chooser:
                texts = [text for _, part in self.chooser.candidates(sample, lost) for text in part]
            image = None
            if "images" in self.scorer.needs:
                image = self.scorer.prepare(sample.image(self.scorer.members), sample.members)
            return (image, texts), lost
        except Fault as fault:
            return fault, []

    def _means(self, samples: Sequence[Pairs]) -> NDArray[np.float32]:
        """Return the mean score of each sample's pairs, [n]."""
        of = np.repeat(np.arange(len(samples)), [len(texts) for _, texts in samples])
        images = [samples[at][0] for at in of.tolist()]
        each = scores(self.scorer, images, [text for _, texts in samples for text in texts])
        sums = np.bincount(of, each.astype(np.float64), len(samples))
        return (sums / np.bincount(of, minlength=len(samples))).astype(np.float32)
