"""Small shards of everything that shards may hold, in every format of archive, and what may be done to them."""

import io
import json
import tarfile
import zlib

import numpy as np

from tests.data import damage
from tests.data.broken_tables import mutate
from tests.data.images import WHOLE, encode, image, png
from tests.models.hostile import NUMBERS, places

IMAGES = {
    "png": "PNG",
    "jpg": "JPEG",
    "webp": "WEBP",
    "gif": "GIF",
    "tiff": "TIFF",
    "avif.jpg": "AVIF",  # by its content
    "bmp": "BMP",
}
ODD = [  # what a member may hold in place of what it should
    b"", b"\0" * 600, b"\xef\xbb\xbfa", b"\xff\xfea\0", b"caf\xe9", b"\xed\xa0\xbd", b'"\\ud83d"', b"[" * 100_000,
    b'{"title": ' * 200, b'{"title": null}', b'{"title": [null, "a"]}', b'{"title": 1e999}',
    b'{"number": %s}' % (b"9" * 400),
    b'{"number": NaN}', b"9" * 30, b"-1", b"a" * 100_000, b"a\n" * 20_000, b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\0\0\1\0",
    b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (9,), }", png(12_000, 12_000, depth=1, kind=0),
    png(2, 20_000), png(8, 8, depth=16), *WHOLE.values(),
]  # fmt: skip


def members(count=7):
    """Return (name, bytes) of samples with an image each of another format."""
    vector = io.BytesIO()
    np.save(vector, np.eye(4, dtype=np.int8)[1])
    out = []
    for number, (extension, kind) in zip(range(count), IMAGES.items()):
        facts = {"title": f"title {number}", "tags": ["a", "b"], "number": number, "weight": 0.5}
        out += [
            (f"{number:03d}.{extension.split('.')[-1]}", encode(image((9, 8)), kind)),
            (f"{number:03d}.txt", b"number %d" % number),
            (f"{number:03d}.json", json.dumps(facts).encode()),
            (f"{number:03d}.cls", b"%d" % (number % 3)),
            (f"{number:03d}.npy", vector.getvalue()),
        ]
    return out


FORMATS = {"USTAR": tarfile.USTAR_FORMAT, "GNU": tarfile.GNU_FORMAT, "PAX": tarfile.PAX_FORMAT}
SHARDS = [damage.archive(members(), fmt) for fmt in FORMATS.values()] + [
    damage.archive([(f"{'k' * 120}/{name}", data) for name, data in members()], FORMATS[fmt]) for fmt in ("GNU", "PAX")
]


def changed(draw, count=1):
    """Return (name, bytes) members, `count` of them changed: other content, or bytes of their own damaged."""
    out = members()
    for _ in range(count):
        at = draw.randrange(len(out))
        name, data = out[at]
        out[at] = (name, draw.choice(ODD) if draw.random() < 0.5 else mutate(data, draw))
    return out


def damaged(draw):
    """Return (name, bytes) of a shard whose archive, or whose content, is damaged."""
    if draw.random() < 0.35:
        return "content", damage.archive(changed(draw, draw.choice([1, 1, 3])), draw.choice([*FORMATS.values()]))
    name, _, data = damage.damaged(draw, SHARDS)
    return name, data


def resealed(draw, side):
    """A sidecar index that says something else under right checksums."""
    length = int.from_bytes(side[:8], "little")
    header = json.loads(side[8 : 8 + length])
    facts = header["__metadata__"]
    del facts["facts"]
    name = draw.choice(["samples", "size", "extensions", "kinds", "kind_counts", "problems", "left_out", "arrays"])
    value = json.loads(facts[name])
    if draw.random() < 0.3 or not places([value]):
        value = draw.choice(NUMBERS)
    else:
        node, key = draw.choice(places([value]))
        node[key] = draw.choice(NUMBERS)
    facts[name] = json.dumps(value) if draw.random() < 0.9 else draw.choice(["", "[" * 50_000, "x", "-1"])
    facts["facts"] = str(zlib.crc32(json.dumps(facts, sort_keys=True).encode()))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + side[8 + length :]
