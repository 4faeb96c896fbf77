"""Samples left out or changed, with the reasons: each that training does not see as stored is counted here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from mmclr import parallel
from mmclr.display.secrets import address, redact
from mmclr.display.terminal import one_line
from mmclr.errors import UserError

EXAMPLES = 5  # kept for each reason, to be shown to people

# reason: what it means. The order is the order of the counts that ranks add up.
REASONS = {
    "damaged": "the shard is damaged at that place",
    "no_file": "the member is no plain file",
    "no_key": "the member belongs to no sample: its name has no extension",
    "note": "the member is a note about the shard, as webdataset names them (__NAME__)",
    "dotted_key": "the key has a dot, and webdataset's keys end at the first one: rename the members",
    "truncated": "the shard ends inside the sample",
    "not_in_subset": "data.subset does not name the sample",
    "small_group": "its group has fewer samples than a batch (data.order)",
    "no_image": "the sample has no image",
    "no_member": "the sample has no member of this name (data.companion, data.generated)",
    "no_caption": "the sample has none of the caption fields",
    "empty_caption": "the caption is empty",
    "bad_text": "the caption or its json cannot be read",
    "bad_label": "the label or weight cannot be used",
    "bad_field": "a value of data.fields cannot be used",
    "bad_image": "the image cannot be decoded",
    "bad_array": "the array cannot be used",
    "no_range": "nothing says which numbers of the image are black and white",
    "too_many_pixels": "the image is larger than data.max_pixels",
    "unreadable": "the shard cannot be read at that place",
    "bad_row": "the row of the table cannot be read",
    "missing_file": "there is no such file",
    "no_label": "the sample has no class",
    "blank_image": "the image shows nothing",
    "lost_caption": "one of its captions cannot be used; the others are, and the sample is kept",
    "cut_list": "it has more tags or boxes than are kept (data.fields.NAME.most); the sample is kept",
    "missing_image": "one of the images that data.images names is not there; the others are, and the sample is kept",
    "lost_image": "one of its images cannot be used; the others are, and the sample is kept",
    "cut_caption": "the caption was longer than data.max_characters and was cut; the sample is kept",
}
KEPT = {"cut_caption", "cut_list", "lost_caption", "lost_image", "missing_image"}  # reasons that lose nothing


class Fault(Exception):
    """A sample cannot be used; `reason` is a key of REASONS, the message says what exactly."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Entry(NamedTuple):
    """One sample with a fault; `row` is -1 for a place in a shard that belongs to no sample."""

    shard: str
    row: int
    key: str
    reason: str
    detail: str

    def __str__(self) -> str:
        where = f", sample {self.row} ({one_line(self.key)})" if self.key else f":{self.row}" if self.row else ""
        if self.row < 0:
            where = f", {one_line(self.key) or 'no sample'}"
        return f"{address(self.shard)}{where}: {REASONS.get(self.reason, self.reason)}: {redact(one_line(self.detail))}"


class Ledger:
    """Counts by reason, with the first few examples of each.

    `excluded` is what the index already left out (the same on every rank); `counts` is what this rank met while
    reading, once for each time that it was met.
    """

    def __init__(self, limit: int = EXAMPLES) -> None:
        self.limit = limit  # examples that are kept for each reason
        self.excluded: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.before: dict[str, int] = {}  # met by all ranks before this run was resumed
        self.examples: dict[str, list[Entry]] = {}
        self.restarts = 0  # worker processes that died or hung and were replaced

    def add(self, entries: Iterable[Entry]) -> None:
        """Count faults that were met while reading."""
        for entry in entries:
            self.counts[entry.reason] = self.counts.get(entry.reason, 0) + 1
            self._show(entry)

    def exclude(self, reason: str, count: int, examples: Iterable[Entry] = ()) -> None:
        """Count samples that the index leaves out of the dataset."""
        self.excluded[reason] = self.excluded.get(reason, 0) + count
        for entry in examples:
            self._show(entry)

    def _show(self, entry: Entry) -> None:
        shown = self.examples.setdefault(entry.reason, [])
        if len(shown) < self.limit and entry not in shown:
            shown.append(entry)

    @property
    def lost(self) -> int:
        """Number of times that this rank could not use a sample."""
        return sum(count for reason, count in self.counts.items() if reason not in KEPT)

    def summed(self) -> dict[str, int]:
        """Return the counts of all ranks since the start of training. Every rank must call it."""
        device = "cuda" if torch.cuda.is_available() else "cpu"  # NCCL adds up nothing else
        mine = torch.tensor([self.counts.get(reason, 0) for reason in REASONS], device=device)
        ours = parallel.total(mine).tolist()
        both = {reason: self.before.get(reason, 0) + count for reason, count in zip(REASONS, ours)}
        return {reason: count for reason, count in both.items() if count}

    def state_dict(self) -> dict[str, int]:
        """Return what a checkpoint keeps. Every rank must call it."""
        return self.summed()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the counts of a checkpoint."""
        self.before = {reason: int(count) for reason, count in state.items() if reason in REASONS}
        self.counts = {}

    def lines(self, counts: dict[str, int] | None = None, met: str = "met") -> list[str]:
        """Return what people should read: one line per reason and its first examples.

        `met` says what became of the samples that were met; a tool that reads each once leaves them out.
        """
        out = []
        for title, table in (("left out", self.excluded), (met, self.counts if counts is None else counts)):
            for reason, count in table.items():
                kept = "kept" if reason in KEPT else title
                out.append(f"{count} sample{'s' * (count != 1)} {kept}: {REASONS.get(reason, reason)}")
                out += [f"  {entry}" for entry in self.examples.get(reason, [])]
        if self.restarts:
            out.append(f"{self.restarts} loader workers died or hung and were replaced; their batches were made again")
        return out

    def check(self, seen: int, policy: str, max_rate: float, setting: str = "data.max_faults=") -> None:
        """Raise UserError when a fault may not be passed over, or when there are too many of them.

        `seen` is the number of samples this rank has read; the rate is judged from the thousandth on. `setting` is the
        name of the limit, for the message.
        """
        if policy == "raise" and self.lost:
            first = next(e for reason, entries in self.examples.items() if reason in self.counts for e in entries)
            raise UserError(f"{first}; data.faults=substitute or skip goes on without such samples")
        if self.lost > max_rate * max(seen, 1000):
            lines = "\n".join(self.lines())
            raise UserError(
                f"{self.lost} of {seen} samples could not be used, more than {setting}{max_rate:g}:\n{lines}"
            )
