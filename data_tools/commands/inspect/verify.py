"""Read every sample as training would, and list all that cannot be used."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from mmclr.data_tools.lib import items
from mmclr.data_tools.lib.medium import add_arguments, medium
from rich.progress import track

from mmclr.data.pixels.choose import choose
from mmclr.data.pixels.medium import Medium
from mmclr.data.samples.captions import Chooser, identity
from mmclr.data.samples.images import Images, usable
from mmclr.data.samples.skipped import REASONS, Entry, Fault, Ledger
from mmclr.data.shards import addresses
from mmclr.data.shards.index import ShardIndex, open_indices
from mmclr.data.shards.shards import Sample, Shards
from mmclr.data.shards.sources import expand
from mmclr.data.stream.workers import run_ahead
from mmclr.display.secrets import redact_tree
from mmclr.display.terminal import say
from mmclr.storage import written

TOGETHER = 64  # samples of one job
SIZE = 1  # pixels of a model: no view is cut
KIND = "list of faults"
ABSENT = ("note", "missing_image")  # of samples and shards that are sound


class Report(NamedTuple):
    """All faults of shards."""

    samples: int  # usable, as far as their members tell
    problems: list[tuple[str, int, str]]  # shard, byte, what
    faults: list[Entry]  # half samples, then those that cannot be decoded, and members that belong to no sample
    same_key: int  # samples whose key another sample of the same shard has
    same_image: int  # images that were there before, byte for byte

    @property
    def sound(self) -> bool:
        """Whether all can be used. Of several images some may be absent, and webdataset leaves out notes, too."""
        return not (self.problems or any(entry.reason not in ABSENT for entry in self.faults))


def main(argv: list[str]) -> int:
    """Verify shards; the status is 1 when something is wrong."""
    parser = argparse.ArgumentParser(
        description="Read every sample of tar shards, decode its image and its caption, and list what cannot be "
        "used: truncated shards, damaged headers, half samples, undecodable images, empty or unreadable captions. Of "
        "samples of several images (--image-members) every image is decoded.",
        epilog="examples: mmclr data verify 'shards/*.tar' --caption json:title --workers 8; of several images: "
        "mmclr data verify 'shards/*.tar' --image-members front.jpg back.jpg",
    )
    parser.add_argument("shards", help="shards as in a config: 'data/{00000..00009}.tar', a glob, several with ::")
    parser.add_argument("--caption", default="txt", help="caption field: txt, or json:title (default txt)")
    items.add_arguments(parser)
    add_arguments(parser)
    parser.add_argument("--workers", type=int, default=2, help="processes that decode (default 2)")
    parser.add_argument("--json", metavar="FILE", help="write the whole list there, one JSON object a line")
    args = parser.parse_args(argv)
    urls = expand(args.shards)
    if args.json:
        written.check(args.json, KIND)
    report = verify(open_indices(urls), args.caption, args.workers, medium(args), items.chosen(args))
    if args.json:
        places = [Entry(shard, -1, f"byte {at}", "damaged", what) for shard, at, what in report.problems]
        lines_ = (json.dumps(redact_tree(entry._asdict())) + "\n" for entry in places + report.faults)
        with written.staged(args.json, KIND) as partial, open(partial, "w", encoding="utf-8") as out:
            out.writelines(lines_)
    for line in lines(report):
        say(line)
    return int(not report.sound)


def verify(
    indices: Sequence[ShardIndex],
    caption: str = "txt",
    workers: int = 0,
    medium: Medium | None = None,
    images: Images | None = None,
) -> Report:
    """Read and decode every sample of the shards; without a medium their images are photographs, one of a sample."""
    medium, images = medium or choose(SIZE), images or Images("")
    ledger = Ledger(limit=1 << 40)
    every = sorted({extension for index in indices for extension in index.extensions})
    # whole: a member that is not used may run over others
    shards = items.open_shards(
        indices, images, medium.members, caption=caption, beside=every, ledger=ledger, whole=True
    )
    checker = _Checker(shards, caption, medium, images)
    starts = range(0, len(shards), TOGETHER)
    faults: list[Entry] = []
    ids: Counter[int] = Counter()
    jobs = run_ahead(checker, starts, workers)
    for found, seen in track(jobs, "verify", len(starts), transient=True, disable=not sys.stderr.isatty()):
        faults += found
        ids.update(seen)
    return Report(
        samples=len(shards),
        problems=[(addresses.identity(index.url), at, what) for index in indices for at, what in index.problems],
        faults=[entry for entries in ledger.examples.values() for entry in entries if not _place(entry)] + faults,
        same_key=sum(sum(n - 1 for n in Counter(index.keys()).values()) for index in indices),
        same_image=sum(count - 1 for count in ids.values()),
    )


def lines(report: Report, most: int = 20) -> Iterator[str]:
    """Yield what people should read."""
    yield f"{report.samples:,} samples with a picture and a caption"  # these words since 0.1: scripts look for them
    for shard, at, what in report.problems:
        yield f"{shard}: at byte {at:,}: {what}"
    for reason, count in Counter(entry.reason for entry in report.faults).items():
        shown = [entry for entry in report.faults if entry.reason == reason]
        left_out = "members left out" if shown[0].row < 0 else "samples"
        yield f"{count:,} {left_out}: {REASONS[reason]}"
        yield from (f"  {entry}" for entry in shown[:most])
        if len(shown) > most:
            yield f"  ... and {len(shown) - most:,} more (--json FILE lists all)"
    if report.same_key:
        yield f"note: {report.same_key:,} samples have a key that was there before in their shard; all are used"
    if report.same_image:
        yield f"note: {report.same_image:,} images were there before, byte for byte"
    what = "images" if {entry.reason for entry in report.faults} <= {*ABSENT, "lost_image"} else "samples"
    without = f"training goes on without these {what if not report.problems else 'samples'} and counts them"
    yield "all of them can be used" if report.sound else without


def _place(entry: Entry) -> bool:
    """Whether an entry is a damaged place, which `problems` has."""
    return entry.row < 0 and entry.reason in ("damaged", "truncated")


class _Checker:
    """Reads TOGETHER samples from a number on; returns their faults and the ids of their images."""

    def __init__(self, shards: Shards, caption: str, medium: Medium, images: Images) -> None:
        self.shards, self.medium, self.images = shards, medium, images
        self.chooser = Chooser({caption: 1.0})

    def __call__(self, start: int) -> tuple[list[Entry], list[int]]:
        faults, ids = list[Entry](), list[int]()
        for number in range(start, min(start + TOGETHER, len(self.shards))):
            lost: list[Fault] = []
            try:
                sample = self.shards.read(number)
                found = self.images.of(sample, self.medium.members, lost)
                ids += map(identity, found)
                usable(found, partial(self._decode, sample), lost)
                self.chooser.candidates(sample)
            except Fault as fault:
                lost = [fault]
            faults += (self.shards.entry(number, fault) for fault in lost)
        return faults, ids

    def _decode(self, sample: Sample, data: bytes) -> None:
        """Decode an image, and let go of it. Raises Fault."""
        self.medium.decode(self.medium.open(data, sample.members))
