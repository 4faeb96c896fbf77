"""The law that nothing is lost unsaid: whatever is damaged, a good sample is used or something is counted for it."""

import contextlib
import random
import resource
import time

import pytest

from mmclr import cli
from mmclr.data.pixels.decode import EncodedImage
from mmclr.data.samples.reader import read_all
from mmclr.data.samples.skipped import Fault, Ledger
from mmclr.data.shards.index import open_index
from mmclr.data.shards.shards import Shards
from mmclr.data.shards.tar import ENDING
from mmclr.errors import UserError
from tests.data import damage

GOOD = {(damage.PICTURES[n], b"number %d" % n): n for n in range(2 * damage.SAMPLES)}


LOCAL = {"bits", "bits_of_headers", "blocks", "cut", "hole", "joined", "shuffled"}  # say nothing of other members


def read(path):
    """What training would use of a shard, and how much it counts as lost. Raises UserError."""
    ledger, used = Ledger(), []
    index = open_index(path)
    try:
        shards = Shards([index], ledger=ledger)
    except UserError:
        return used, ledger, index
    for number in range(len(shards)):
        try:
            sample = shards.read(number)
            EncodedImage(sample.image(), 1 << 20).pixels((0, 0, 0))
            used.append((GOOD.get((sample.image(), sample.members["txt"])), sample.key[-3:]))
        except Fault as fault:
            ledger.add([shards.where(number)._replace(reason=fault.reason, detail=fault.detail)])
    return used, ledger, index


def untouched(whole, data):
    """Numbers of the samples all of whose bytes are still there, each run of their members once or more."""
    parts = {}
    for key, begin, end in damage.spans(whole):
        parts.setdefault(key, []).append(whole[begin:end])
    return {int(key[-3:]) for key, members in parts.items() if all(member in data for member in members)}


def a_shorter_archive(whole, data):
    """Whether zeros took the last members as a whole: what is left is a healthy archive of fewer samples."""
    ends = [begin for begin in damage.headers(whole) if not data[begin:].strip(b"\0")]
    return bool(ends) and len(data) - ends[0] <= ENDING


def check(path, name, whole, data):
    damage.write(path, data)
    for sidecar in path.parent.glob("*.index"):
        sidecar.unlink()
    try:
        used, ledger, index = read(str(path))
    except UserError:
        return "refused"  # the whole shard, by name
    counted = sum(ledger.excluded.values()) + ledger.lost
    missing = set(range(damage.SAMPLES)) - {number for number, _ in used}
    gone = missing - {int(key) for _, key in used if key.isdecimal()}  # bits of a caption may be others, unseen
    assert not gone or counted or a_shorter_archive(whole, data), (name, gone)
    assert not index.problems or counted, name
    lost = untouched(whole, data) & missing
    assert not lost or name not in LOCAL, (name, lost, index.problems, ledger.excluded)
    return "counted" if counted else "used"


def fuzz(folder, count, seed, slowest=10.0):
    ends = {}
    for case in range(count):
        draw = random.Random(f"{seed}-{case}")
        name, whole, data = damage.damaged(draw)
        begin = time.perf_counter()
        try:
            end = check(folder / "a.tar", name, whole, data)
        except Exception as error:
            raise AssertionError(f"case {seed}-{case}, {name}") from error
        assert time.perf_counter() - begin < slowest, (case, name)
        ends[end] = ends.get(end, 0) + 1
    return ends


def test_good_samples_are_used_or_counted(tmp_path):
    assert {"counted", "used"} <= set(fuzz(tmp_path, 250, 0)) <= {"refused", "counted", "used"}


def commands(folder, count, seed):
    """Verify, stats, reshard and evaluation's reading of the same damages: a status and words, and a loss is told."""
    path = folder / "a.tar"
    for case in range(count):
        name, whole, data = damage.damaged(random.Random(f"{seed}-{case}"))
        try:
            end = check(path, name, whole, data)
            said = {cli.main(["data", "verify", str(path), "--workers", "0"])}
            assert end == "used" or not said <= {0}, (case, name)
            for args in (["stats", str(path)], ["reshard", str(path), str(folder / f"out{case}")]):
                said.add(cli.main(["data", *args]) or 0)
            assert said <= {0, 1, 2}
            with contextlib.suppress(UserError):
                reader = read_all(str(path), 8)
                got = sum(len(rows.keys) for rows in reader)
                assert got >= damage.SAMPLES or reader.ledger.excluded or reader.ledger.lost or end == "used"
        except Exception as error:
            raise AssertionError(f"case {seed}-{case}, {name}") from error


def test_commands_tell_what_is_lost(tmp_path):
    commands(tmp_path, 6, 2)


@pytest.mark.slow
def test_commands_tell_what_is_lost_many_times(tmp_path):
    commands(tmp_path, 200, 3)


@pytest.mark.slow
def test_ten_thousand_damages(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(fuzz(tmp_path, 10_000, 1))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB: 1 GiB
