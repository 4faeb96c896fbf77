"""Injected faults are counted exactly, by reason, and change nothing else to the bit."""

import os
import struct
import zlib

import pytest
import torch

from mmclr.data.samples.skipped import REASONS, Entry, Ledger
from mmclr.errors import UserError
from tests.data.made import RANDOM, pair, rows, take, write_tar

SAMPLES = 40


def bomb():
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def flip(data):
    """One bit in the compressed pixels."""
    at = data.index(b"IDAT") + 40
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGE = {  # number: (member, what becomes of it, reason)
    3: ("png", flip, "bad_image"),
    7: ("png", lambda data: data[: len(data) // 2], "bad_image"),
    11: ("png", lambda data: b"", "bad_image"),
    12: ("png", lambda data: bomb(), "too_many_pixels"),
    17: ("txt", lambda data: b" \n", "empty_caption"),
    19: ("txt", lambda data: b"caf\xe9", "bad_text"),
    23: ("txt", lambda data: b"word " * 200_000, "cut_caption"),
}


@pytest.fixture
def folders(tmp_path):
    """Four shards of ten samples, whole and with DAMAGE."""
    out = []
    for name, damage in (("whole", {}), ("broken", DAMAGE)):
        folder = tmp_path / name
        folder.mkdir()
        for shard in range(4):
            members = []
            for n in range(10 * shard, 10 * shard + 10):
                for ext, data in pair(n).items():
                    hurt = damage.get(n, ("", None, ""))
                    members.append((f"{n}.{ext}", hurt[1](data) if hurt[0] == ext else data))
            write_tar(folder / f"{shard}.tar", members)
        out.append(folder)
    return out


def settings(folder, **more):
    return {"train": str(folder / "*.tar"), "batch": 8, **RANDOM, "caption": "txt", "max_faults": 0.9, **more}


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_samples_are_blank_and_the_rest_is_the_same(make_loader, folders, workers):
    whole = [row for batch in take(make_loader(**settings(folders[0])), 5) for row in rows(batch)]
    loader = make_loader(**settings(folders[1], faults="skip", workers=workers))
    batches = take(loader, 5)
    broken = [row for batch in batches for row in rows(batch)]
    lost = {n for n, damage in DAMAGE.items() if damage[2] != "cut_caption"}
    for good, got in zip(whole, broken):
        number = int(good[0])
        assert good[3] == got[3] == number
        if number in lost:
            assert (got[0], got[-1]) == ("", 0.0)
        elif number != 23:
            assert got == good
    assert loader.ledger.counts == {
        "bad_image": 3,
        "too_many_pixels": 1,
        "empty_caption": 1,
        "bad_text": 1,
        "cut_caption": 1,
    }
    assert loader.ledger.lost == 6
    assert torch.cat([b.weights for b in batches]).sum() == SAMPLES - 6
    told = {(entry.key, entry.reason) for entries in loader.ledger.examples.values() for entry in entries}
    assert told == {(str(n), damage[2]) for n, damage in DAMAGE.items()}


def test_substitutes_are_good_samples_and_always_the_same(make_loader, folders):
    def run(world=1, workers=0):
        loaders = [make_loader(r, world, **settings(folders[1], workers=workers)) for r in range(world)]
        parts = [take(loader, 5) for loader in loaders]
        return [row for step in zip(*parts) for batch in step for row in rows(batch)], loaders

    got, [loader] = run()
    whole = [row for batch in take(make_loader(**settings(folders[0])), 5) for row in rows(batch)]
    for good, row in zip(whole, got):
        assert row[-1] == 1.0
        assert int(row[0]) == row[3]
        if int(good[0]) not in DAMAGE:
            assert row == good
        assert int(row[0]) not in DAMAGE or int(row[0]) == 23
    assert run(world=2, workers=1)[0] == got
    assert loader.ledger.lost >= 6  # a substitute may itself be bad: it is counted too


def test_raise_and_rate(make_loader, folders):
    with pytest.raises(UserError, match=r"broken/\d\.tar, sample \d \(\d+\): .*data\.faults=substitute"):
        take(make_loader(**settings(folders[1], faults="raise")), 5)
    loader = make_loader(**settings(folders[1], max_faults=0.002))
    with pytest.raises(UserError, match=r"more than data\.max_faults=0\.002:\n.*sample"):
        take(loader, 5)


def test_nothing_usable_ends(make_loader, tmp_path):
    members = [(f"{n}.{e}", b"x" if e == "png" else data) for n in range(20) for e, data in pair(n).items()]
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(UserError, match="in a row cannot be used, the last: .*cannot be decoded"):
        take(make_loader(train=str(tmp_path / "a.tar"), batch=8), 1)


def test_cut_shards_and_half_samples(make_loader, folders):
    """Shard 1 cut at a member, shard 2 inside one; shard 3 lacks members and has a key twice."""
    whole = [row for batch in take(make_loader(**settings(folders[0])), 5) for row in rows(batch)]
    folder = folders[0]
    sizes = [sum(512 + -(-size // 512) * 512 for size in sizes_of(folder / f"{shard}.tar")[:22]) for shard in (1, 2)]
    for shard, size in zip((1, 2), (sizes[0], sizes[1] + 520)):
        path = folder / f"{shard}.tar"
        os.truncate(path, size)
    loader = make_loader(**settings(folder))
    # 7 samples of each are whole; the eighth has begun; of the ninth and tenth nothing can be known
    assert loader.samples == 34
    assert loader.ledger.excluded == {"truncated": 2}
    got = {row[0]: row for batch in take(loader, 4) for row in rows(batch)}
    for row in whole[:10]:
        if row[0] in got and row[3] < 17:  # the same number in the dataset: the same draws
            assert got[row[0]][1:] == row[1:]


def sizes_of(path):
    import tarfile

    with tarfile.open(path) as archive:
        return [member.size for member in archive]


def test_shard_that_disappears(make_loader, folders):
    whole = [row for batch in take(make_loader(**settings(folders[0])), 5) for row in rows(batch)]
    loader = make_loader(**settings(folders[0], faults="skip"))
    (folders[0] / "2.tar").unlink()
    got = [row for batch in take(loader, 5) for row in rows(batch)]
    assert loader.ledger.counts == {"unreadable": 10}
    assert "no such file" in loader.ledger.examples["unreadable"][0].detail.lower()
    assert [row for row in got if row[-1]] == [row for row in whole if not 20 <= row[3] < 30]


def test_shard_that_shrinks_while_it_is_read(make_loader, folders):
    loader = make_loader(**settings(folders[0], faults="skip"))
    os.truncate(folders[0] / "2.tar", 512 * 8)
    take(loader, 5)
    assert set(loader.ledger.counts) <= {"unreadable"}
    assert 8 <= loader.ledger.counts["unreadable"] <= 10


def test_duplicate_keys_are_kept_apart(make_loader, tmp_path):
    members = [("same." + ext, data) for n in range(12) for ext, data in pair(n).items()]
    write_tar(tmp_path / "a.tar", members)
    loader = make_loader(train=str(tmp_path / "a.tar"), batch=12)
    batch = take(loader, 1)[0]
    assert loader.samples == 12
    assert set(batch.keys) == {"same"}
    assert len(set(batch.image_id.tolist())) == 12


def test_ledger_survives_a_checkpoint(make_loader, folders):
    loader = make_loader(**settings(folders[1], faults="skip"))
    take(loader, 2)
    state = loader.state_dict()
    again = make_loader(**settings(folders[1], faults="skip"))
    again.load_state_dict(state)
    take(again, 3)
    assert again.ledger.summed() == {
        "bad_image": 3,
        "too_many_pixels": 1,
        "empty_caption": 1,
        "bad_text": 1,
        "cut_caption": 1,
    }
    assert list(again.ledger.summed()) == [reason for reason in REASONS if reason in again.ledger.summed()]


def test_lines_are_for_people():
    ledger = Ledger()
    ledger.add([Entry("a.tar", 3, "000003", "bad_image", "image file is truncated")] * 2)
    ledger.exclude("no_caption", 1, [Entry("b.tar", 0, "x", "no_caption", "has png")])
    assert ledger.lines() == [
        "1 sample left out: the sample has none of the caption fields",
        "  b.tar, sample 0 (x): the sample has none of the caption fields: has png",
        "2 samples met: the image cannot be decoded",
        "  a.tar, sample 3 (000003): the image cannot be decoded: image file is truncated",
    ]
