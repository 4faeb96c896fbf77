"""Will a run start and go through: its config, its shards, and a sample of its images and captions."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from mmclr.config import ConfigError, load
from mmclr.data.pixels.medium import Medium, Opened
from mmclr.data.samples import field_readers
from mmclr.data.samples.captions import Chooser
from mmclr.data.samples.images import Images, usable
from mmclr.data.samples.skipped import REASONS, Entry, Fault
from mmclr.data.samples.text import Tokenizer
from mmclr.data.shards.index import open_index
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.sources import expand
from mmclr.data.stream.loader import DataConfig, Loader
from mmclr.doctor import forecast, probe
from mmclr.doctor.finding import Finding
from mmclr.errors import UserError
from mmclr.models import init
from mmclr.models.formats import find
from mmclr.train.estimate import forecast as needed
from mmclr.train.parts import check_tokenizer
from mmclr.train.run import RunConfig

SAMPLES = 256  # read and decoded, spread over all shards
SHOWN = 5  # shards with the same trouble that get a line
DROP = "mmclr data verify lists all such samples: mend them or leave them out"
REMEDIES = {
    "no_caption": "set data.caption to a field that is there: txt, or json:FIELD",
    "bad_label": "set data.label and data.weight to fields with numbers",
    "bad_array": "save arrays as model.image.array says, or set its channels and length to what they have",
    "bad_field": "set data.fields to fields with values of their kind",
    "no_range": "set data.intensity, for example {low: 0, high: 4095} or {percentile: [1, 99]}",
    "no_member": "set data.companion and data.generated to members that samples have, or leave them out",
    "too_many_pixels": "raise data.max_pixels, or leave them out",
}
LONG = 1 << 20  # tokens: no caption is cut while it is measured


class Read(NamedTuple):
    """One sample as it was read."""

    size: tuple[int, int]  # width, height of its image
    texts: list[str]


def check(path: str, overrides: Sequence[str]) -> Iterator[Finding]:
    """Yield what there is to say about the run that `mmclr train path overrides` would start."""
    try:
        run = load(RunConfig, path, overrides)
        asked = needed.asked(run)
        field_readers.check_asked(run.data, asked)
    except ConfigError as error:
        yield from (Finding("BROKEN", line) for line in str(error).splitlines())
        return
    yield Finding("ok", f"config {path}: objectives {', '.join(run.objectives)}, into {run.folder}")
    try:
        run = run.resolved()
        tokenizer = Tokenizer.load(run.tokenizer, LONG)
    except UserError as error:
        yield Finding("BROKEN", str(error))
        return
    yield from sources(run, tokenizer)
    lost = list(shards(run.data))
    yield from lost
    if any(finding.level == "BROKEN" for finding in lost):
        return
    try:
        run = dataclasses.replace(run, data=run.data.asked_alone(asked))
        loader = Loader(run.data, tokenizer, run.model.image, run.seed)
    except UserError as error:
        yield Finding("BROKEN", str(error))
        return
    yield from left_out(loader)
    reads = yield from samples(run, loader.parts, loader.assembler.medium)
    if reads:
        lengths = [len(ids) for ids in tokenizer.encode([text for read in reads for text in read.texts])]
        array = run.model.image.array
        yield from images(reads, run.model.image.size) if array is None else steps(reads, array.length)
        yield from captions(lengths, run.model.text.context)
        used = [min(length, run.model.text.context) for length in lengths]
        yield from forecast.check(run, loader.samples, statistics.mean(used), tokenizer, probe.hardware())


def sources(run: RunConfig, tokenizer: Tokenizer) -> Iterator[Finding]:
    """Say whether the trained models that the run begins with are there, and fit."""
    try:
        init.check_source(run.model, run.init)
        check_tokenizer(run.model, run, tokenizer)
        if run.teacher:
            find.read_config(find.find(run.teacher))
    except UserError as error:
        yield Finding("BROKEN", str(error))
        return
    named = {"init.source": run.init.source, "teacher": run.teacher}
    if any(named.values()):
        yield Finding("ok", ", ".join(f"{key} {source}" for key, source in named.items() if source) + ": there")


def shards(data: DataConfig) -> Iterator[Finding]:
    """Open every shard (which writes the indices that training needs) and say which are not whole."""
    for name, source in data.sources().items():
        try:
            urls = expand(source.urls, data.allow_pipe)
        except UserError as error:
            yield Finding("BROKEN", str(error))
            continue
        with ThreadPoolExecutor(4) as pool:
            faults = [fault for found in pool.map(_faults, urls) for fault in found]
        yield from _shown([fault for fault in faults if fault.level == "BROKEN"], "shards that cannot be opened")
        yield from _shown([fault for fault in faults if fault.level == "note"], "places where shards are damaged")
        if not faults:
            yield Finding("ok", f"{len(urls):,} shard{'s' * (len(urls) > 1)} of {name} open and are whole")


def _faults(url: str) -> list[Finding]:
    try:
        index = open_index(url)
    except (UserError, OSError) as error:
        return [Finding("BROKEN", str(error))]
    why = "the samples around it are used; mmclr data verify lists what is lost"
    return [Finding("note", f"{url}: {what}", why, "copy it again") for _, what in index.problems]


def _shown(findings: list[Finding], what: str) -> Iterator[Finding]:
    yield from findings[:SHOWN]
    if len(findings) > SHOWN:
        yield Finding(findings[0].level, f"{len(findings) - SHOWN:,} more {what}")


def left_out(loader: Loader) -> Iterator[Finding]:
    """Say which samples the index already excludes."""
    for reason, count in loader.ledger.excluded.items():
        example = loader.ledger.examples[reason][0]
        of = f"{count:,} of {loader.samples + sum(loader.ledger.excluded.values()):,} samples are left out"
        yield Finding("note", of, f"{REASONS[reason]} (first: {example.shard}, {example.key}, {example.detail})")
    if not loader.ledger.excluded:
        yield Finding("ok", f"{loader.samples:,} samples, each with an image and a caption")


def samples(run: RunConfig, parts: Sequence[Shards], medium: Medium) -> Generator[Finding, None, list[Any]]:
    """Read and decode a sample of the samples; return those that can be used."""
    begin = time.perf_counter()
    found = [
        read(run.data, medium, part, at) for part in parts for at in spread(len(part), max(1, SAMPLES // len(parts)))
    ]
    seconds = time.perf_counter() - begin
    reads = [entry for entry in found if isinstance(entry, Read)]
    bad = [entry for entry in found if isinstance(entry, Entry)]
    for reason, count in Counter(entry.reason for entry in bad).items():
        first = next(entry for entry in bad if entry.reason == reason)
        ends = run.data.faults == "raise" or len(bad) > run.data.max_faults * len(found)
        rule = "data.faults=raise" if run.data.faults == "raise" else f"data.max_faults={run.data.max_faults}"
        what = f"{count} of {len(found)} samples cannot be used" + f", and {rule} would end the run" * ends
        yield Finding("BROKEN" if ends else "note", what, str(first), REMEDIES.get(reason, DROP))
    if reads:
        rate = len(found) / seconds
        yield Finding("ok", f"{len(reads)} samples from all shards decode, {rate:,.0f} a second in one process")
    return reads


def spread(total: int, wanted: int) -> list[int]:
    """Return up to `wanted` numbers below `total`, evenly spaced, first and last among them."""
    if total <= wanted:
        return list(range(total))
    return [round(i * (total - 1) / max(1, wanted - 1)) for i in range(wanted)]


def read(data: DataConfig, medium: Medium, part: Shards, at: int) -> Read | Entry:
    """Read one sample as training would, without what is random about it."""
    chooser = Chooser(data.captions(), data.split, data.edits)
    try:
        sample = part.read(at)
        files = Images(data.images).of(sample, medium.members, [])
        image = usable(files, lambda file: _decoded(medium, file, sample.members), [])[0]
        for member in data.members().values():
            further = medium.open(sample.further(member), sample.members)
            medium.decode(further, min(further.size) / medium.size)
        texts = [text for _, texts in chooser.candidates(sample) for text in texts]
        for reader in field_readers.members(data).values():
            reader.value(sample, at, [])
    except Fault as fault:
        return part.where(at)._replace(reason=fault.reason, detail=fault.detail)
    return Read(image.size, texts)


def _decoded(medium: Medium, file: bytes, beside: Mapping[str, bytes]) -> Opened:
    """Return an image that can be decoded. Raises Fault."""
    image = medium.open(file, beside)
    medium.decode(image, min(image.size) / medium.size)
    return image


def images(reads: list[Read], size: int) -> Iterator[Finding]:
    """Compare the images' sizes with what the model sees."""
    short = sorted(min(read.size) for read in reads)
    middle = statistics.median_low(short)
    what = f"images are {short[0]} to {short[-1]} px on their short side, {middle} in the middle; the model sees {size}"
    if middle < size:
        yield Finding(
            "note", what, "most are enlarged, which costs time and shows nothing", "a smaller model.image.size"
        )
    else:
        yield Finding("ok", what)


def steps(reads: list[Read], length: int) -> Iterator[Finding]:
    """Compare the arrays' lengths with what the model sees; rows have none."""
    found = sorted(read.size[0] for read in reads)
    longer = sum(steps > length for steps in found) / len(found)
    middle = statistics.median_low(found)
    what = f"arrays have {found[0]} to {found[-1]} steps, {middle} in the middle; the model sees {length}"
    if longer > 0.05:
        yield Finding("note", what, f"of {longer:.0%} of them a window is seen", "a larger model.image.array.length")
    elif 2 * found[-1] <= length:
        yield Finding("note", what, "half of it or more is padding, which costs time", "a smaller length")
    elif length > 1:
        yield Finding("ok", what)


def captions(lengths: list[int], context: int) -> Iterator[Finding]:
    """Compare the captions' lengths with the model's context. lengths: in tokens, start and end included."""
    cut = sum(length > context for length in lengths) / len(lengths)
    middle = statistics.median_low(sorted(lengths))
    what = f"captions have {min(lengths)} to {max(lengths)} tokens, {middle} in the middle; the context holds {context}"
    if cut > 0.05:
        yield Finding("note", what, f"the end of {cut:.0%} of them is cut off", "a larger model.text.context")
    else:
        yield Finding("ok", what)
