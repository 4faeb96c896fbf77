"""A small shard, and every kind of damage that a shard may have; each is drawn with a seeded generator."""

import io
import tarfile
from pathlib import Path

from tests.data.made import picture

SAMPLES = 6
PICTURES = [picture(n, (8, 8)) for n in range(2 * SAMPLES)]


def members(numbers=range(SAMPLES), key="{:03d}"):
    return [
        m for n in numbers for m in ((f"{key.format(n)}.png", PICTURES[n]), (f"{key.format(n)}.txt", b"number %d" % n))
    ]


def archive(entries, fmt=tarfile.USTAR_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt) as tar:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def spans(data):
    """(key, begin, end) of each member with all that belongs to it: its PAX or GNU header, header, data, padding."""
    out, begin = [], 0
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            end = member.offset_data + -(-member.size // 512) * 512
            out.append((member.name.split(".")[0], begin, end))
            begin = end
    return out


def sealed(header):
    """A header with its right checksum."""
    header = bytearray(header)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def record(key, value):
    body = b" " + key + b"=" + value + b"\n"
    size = len(body) + 1
    while len(str(size)) + len(body) != size:
        size = len(str(size)) + len(body)
    return str(size).encode() + body


def extension(data, letter=b"x", name="ext"):
    info = tarfile.TarInfo(name)
    info.type, info.size = letter, len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


def headers(data):
    return [begin for _, begin, _ in spans(data)]


def bits(draw, data):
    out = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 8])):
        at = draw.randrange(len(out))
        out[at] ^= 1 << draw.randrange(8)
    return bytes(out)


def bits_of_headers(draw, data):
    out = bytearray(data)
    for _ in range(draw.choice([1, 2, 4])):
        out[draw.choice(headers(data)) + draw.choice([0, 1, 5, 99, 100, 124, 130, 135, 148, 156, 257, 345, 500])] ^= (
            1 << draw.randrange(8)
        )
    return bytes(out)


def blocks(draw, data):
    """Blocks zeroed, or overwritten by noise."""
    at = draw.randrange(len(data) // 512) * 512
    size = 512 * draw.choice([1, 1, 1, 2, 3, 8])
    new = bytes(size) if draw.random() < 0.6 else draw.randbytes(size)
    return (data[:at] + new + data[at + size :])[: len(data)]


def cut(draw, data):
    return data[: draw.choice([draw.randrange(len(data)), draw.randrange(len(data) // 512) * 512])]


def hole(draw, data):
    """Bytes that are missing, or that came in between."""
    at, size = draw.randrange(len(data)), draw.choice([1, 3, 100, 512, 700, 1024, 5000])
    if draw.random() < 0.5:
        return data[:at] + data[at + size :]
    return data[:at] + draw.choice([bytes(size), draw.randbytes(size)]) + data[at:]


def joined(draw, data):
    other = archive(members(range(SAMPLES, 2 * SAMPLES)))
    end = max(end for _, _, end in spans(data))
    return draw.choice([data, data[: end + 1024], data[:end], data[: end + 512]]) + other


def sizes(draw, data):
    """A size that is wrong under a right checksum: octal, base 256, negative, no number."""
    at = draw.choice(headers(data))
    header = bytearray(data[at : at + 512])
    old = int(header[124:135].strip(b"\0 ") or b"0", 8)
    size = draw.choice(
        [0, old + 512, old + 1, old + 1024, old + 1536, max(0, old - 300), old + 4096, 1 << 30, (1 << 33) - 1]
    )
    header[124:136] = draw.choice([
        b"%011o\0" % size, b"\x80" + size.to_bytes(11, "big"), b"\xff" * 12, b"-0000000700\0",
        b"\x80" + b"\xff" * 11, b"no number!!\0", b" " * 12, b"77777777777\0", b"0o000000010\0", b"0_000000_10\0",
    ])  # fmt: skip
    return data[:at] + sealed(header) + data[at + 512 :]


def pax(draw, data):
    """A PAX or GNU header in front of a member that says nonsense."""
    at = draw.choice(headers(data))
    value = draw.choice([
        b"1" + b"0" * 30, b"9" * 5000, b"9223372036854775808", b"-5", b"", b"x", b"1.5", b"\xd9\xa3", b"0", b"99999",
    ])  # fmt: skip
    text = draw.choice([
        record(b"size", value), record(b"path", value), record(b"size", value) + b"garbage", b"99999 path=a.png\n",
        b"5 a=\n" * 10, b"0 =\n", b"\0" * 30, b"x" * 600, record(b"GNU.sparse.major", b"1"), draw.randbytes(200),
        record(b"path", b"a" * 9000), record(b"comment", b"\n" * 600), record(b"path", b"__x__") + record(b"size", b"3")
    ])  # fmt: skip
    head = extension(text, draw.choice([b"x", b"g", b"L", b"K", b"X"]))
    if draw.random() < 0.2:
        head = sealed(head[:124] + b"\x80" + (1 << 50).to_bytes(11, "big") + head[136:512]) + head[512:]
    return data[:at] + head * draw.choice([1, 1, 3]) + data[at:]


def kinds(draw, data):
    """Another type under a right checksum: links, folders, sparse, unknown."""
    at = draw.choice(headers(data))
    header = bytearray(data[at : at + 512])
    header[156:157] = draw.choice([b"1", b"2", b"3", b"5", b"6", b"S", b"V", b"Z", b"x", b"L", b"g"])
    return data[:at] + sealed(header) + data[at + 512 :]


def names(draw, data):
    """Another name under a right checksum."""
    at = draw.choice(headers(data))
    header = bytearray(data[at : at + 512])
    name = draw.choice([
        b"noextension", b".hidden", b"__note__", b"__x__/a.png", b"a.b/c", b"", b"/", b"a.b.c.png", b"\xff\xfe.png",
        b"__k.png", b"a/b.c/", b"./x.png",
    ])  # fmt: skip
    header[:100] = name.ljust(100, b"\0")
    return data[:at] + sealed(header) + data[at + 512 :]


def shuffled(draw, data):
    parts = [data[begin:end] for _, begin, end in spans(data)]
    draw.shuffle(parts)
    return b"".join(parts + parts[: draw.choice([0, 1, 3])]) + bytes(1024)


DAMAGES = (bits, bits_of_headers, blocks, cut, hole, joined, sizes, pax, kinds, names, shuffled)

WHOLE = [
    archive(members()),
    archive(members(key="folder/" + "k" * 110 + "{:03d}"), tarfile.PAX_FORMAT),
    archive(members(key="k" * 110 + "{:03d}"), tarfile.GNU_FORMAT),
]


SECOND = (bits, blocks, cut, hole)  # need not understand what the first has left


def damaged(draw, wholes=WHOLE):
    """Return (name, whole bytes, damaged bytes): one damage, or two."""
    data = whole = draw.choice(wholes)
    damages = [draw.choice(DAMAGES), *draw.choices(SECOND, k=draw.choice([0, 0, 1]))]
    for damage in damages:
        try:
            data = damage(draw, data) or data
        except (
            tarfile.TarError,
            LookupError,
            OverflowError,
            ValueError,
        ):  # it is no archive any more
            data = bits(draw, data)
    return "+".join(damage.__name__ for damage in damages), whole, data


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)
