"""The header scanner finds what Python's tarfile finds, and says what is damaged."""

import io
import random
import tarfile
from pathlib import Path

import pytest

from mmclr.data.shards import tar

PICTO = Path(__file__).parents[3] / "shared" / "data" / "picto"


def scan(data):
    return tar.scan(lambda offset, size: data[offset : offset + size], len(data))


def found(scan):
    return list(zip(scan.names, scan.offset.tolist(), scan.size.tolist()))


def oracle(data):
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        return [(m.name, m.offset_data, m.size) for m in archive if m.isreg()]


def random_tar(draw):
    """An archive of any format with files, folders, links, long and strange names, interleaved and empty ones."""
    out = io.BytesIO()
    fmt = draw.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    count = draw.choice([0, 1, 2, 5, 20])
    # tarfile refuses an archive that has a global header and nothing else
    headers = {"comment": "shard"} if fmt == tarfile.PAX_FORMAT and count and draw.random() < 0.3 else None
    with tarfile.open(fileobj=out, mode="w", format=fmt, pax_headers=headers) as archive:
        for n in range(count):
            info = tarfile.TarInfo(random_name(draw, n, fmt))
            kind = draw.random()
            if kind < 0.1:
                info.type = draw.choice([tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.LNKTYPE])
                info.linkname = "elsewhere" * draw.choice([1, 1, 20 if fmt != tarfile.USTAR_FORMAT else 1])
                archive.addfile(info)
                continue
            info.mtime = draw.choice([0, 1.5, 1e9])
            info.size = draw.choice([0, 1, 511, 512, 513, draw.randint(0, 9000)])
            info.uname = draw.choice(["", "someone"])
            archive.addfile(info, io.BytesIO(draw.randbytes(info.size)))
    return out.getvalue()


def random_name(draw, n, fmt):
    folder = draw.choice(["", "a/", "deep/" * 18, "ordner/ü/" if fmt != tarfile.USTAR_FORMAT else "b/"])
    long = "x" * 130 if fmt != tarfile.USTAR_FORMAT and draw.random() < 0.3 else ""
    strange = draw.choice(["", "é", "日本", " with space"]) if draw.random() < 0.5 else ""
    return f"{folder}{n:05d}{long}{strange}.{draw.choice(['jpg', 'TXT', 'json', 'seg.png'])}"


def test_thousand_random_archives_equal_tarfile():
    draw = random.Random(0)
    for _ in range(1000):
        data = random_tar(draw)
        result = scan(data)
        assert found(result) == oracle(data)
        assert result.problems == []


@pytest.mark.skipif(not PICTO.is_dir(), reason="the shared picto shards are not beside this checkout")
def test_real_shards_equal_tarfile():
    for path in sorted(PICTO.glob("*.tar")):
        data = path.read_bytes()
        assert found(scan(data)) == oracle(data)


def test_runs_of_headers_join(monkeypatch):
    monkeypatch.setattr(tar, "RUN", 3)
    draw = random.Random(1)
    for _ in range(50):
        data = random_tar(draw)
        assert found(scan(data)) == oracle(data)


def test_sizes_beyond_octal():
    """GNU writes sizes of 8 GiB and more in base 256, PAX as a decimal record."""
    size = 9 << 30
    for fmt in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("big.jpg")
        info.size = size
        head = info.tobuf(fmt)
        small = tarfile.TarInfo("small.jpg").tobuf(fmt)
        pieces = {0: head, len(head) + size: small + bytes(1024)}

        def read(offset, length, pieces=pieces):
            start = max(at for at in pieces if at <= offset)
            return (
                (pieces[start] + bytes(length))[offset - start : offset - start + length] if offset < size * 2 else b""
            )

        result = tar.scan(read, len(head) + size + len(small) + 1024)
        assert found(result) == [("big.jpg", len(head), size), ("small.jpg", len(head) + size + 512, 0)]
        assert result.problems == []


def three():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for n in range(3):
            info = tarfile.TarInfo(f"{n}.jpg")
            info.size = 700
            archive.addfile(info, io.BytesIO(bytes([n + 1]) * 700))
    return out.getvalue()


STRIDE = 512 + 1024  # of the members of `three`


@pytest.mark.parametrize("at", [0, 100, 124, 130, 148, 156, 257, 400])
def test_damaged_header_costs_one_member(at):
    data = bytearray(three())
    data[STRIDE + at] ^= 0x41
    result = scan(bytes(data))
    assert result.names == ["0.jpg", "2.jpg"]
    assert result.problems == [(STRIDE, f"damaged header: {STRIDE} bytes skipped")]


def test_every_cut_is_noticed():
    data = three()
    for end in range(512, 3 * STRIDE + 512, 256):
        result = scan(data[:end])
        whole = sum(STRIDE * n + 512 + 700 <= end for n in range(3))
        assert len(result.names) == whole
        assert any(what.startswith("truncated") for _, what in result.problems), end
        assert (result.cut is not None) == (whole < 3 and end >= STRIDE * whole + 512)


def test_noise_is_no_archive():
    result = scan(random.Random(2).randbytes(4096))
    assert result.names == []
    assert result.problems


def test_negative_size_ends():
    block = bytearray(three()[:512])
    block[124:136] = b"-0000000700\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert scan(bytes(block) + three()[512:]).names[0] == "0.jpg"
