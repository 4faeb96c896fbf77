"""Small tables of every kind, how each is read, and ways to break them."""

import csv
import io
import json

from mmclr.data_tools.lib.inputs import read_records
from mmclr.eval.sets import instances
from mmclr.eval.sets.sources import open_set
from mmclr.eval.suites.retrieval import conditional

from tests.data.made import picture

COLUMNS = ("image", "caption")


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def healthy(folder):
    """A small table of each kind, and how it is read."""
    for n in range(4):
        (folder / f"{n}.png").write_bytes(picture(n))
    pairs = [{"image": f"{n}.png", "caption": f"a {n}", "more": [n, None]} for n in range(40)]
    text = io.StringIO()
    csv.DictWriter(text, list(pairs[0])).writeheader()
    csv.DictWriter(text, list(pairs[0])).writerows(
        [{**pair, "caption": f'"{n}", a\ncaption'} for n, pair in enumerate(pairs)]
    )
    coco = {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(4)],
        "annotations": [{"image_id": n % 4, "caption": f"c {n}"} for n in range(20)],
    }
    karpathy = {
        "images": [{"filename": f"{n}.png", "split": "test", "sentences": [{"raw": f"c {n}"}]} for n in range(4)]
    }
    crepe = [{"filename": f"{n}.png", "caption": "a", "negative_caption": "b"} for n in range(4)]
    box = {"image_id": 1, "instance_bbox": [1, 2, 3, 4]}
    genecis = [{"target": box, "gallery": [box], "reference": box, "condition": "red"}] * 4

    def pack(path):
        return [record for record in read_records(str(path), COLUMNS) if not record.fault]

    def evaluate(path):
        return open_set(str(path), max_faults=1).keys

    title = text.getvalue().replace("image,caption", "filepath,title")
    out = [
        ("a.csv", text.getvalue(), pack),
        ("b.csv", title, evaluate),
        ("a.tsv", text.getvalue().replace(",", "\t"), pack),
        ("a.jsonl", "".join(json.dumps(pair) + "\n" for pair in pairs), pack),
        ("coco.json", json.dumps(coco), evaluate),
        ("karpathy.json", json.dumps(karpathy), evaluate),
        ("crepe.json", json.dumps(crepe), instances.read),
        ("genecis.json", json.dumps(genecis), conditional.read),
    ]
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    file = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(pairs), file, row_group_size=16)
    return [(name, data.encode(), how) for name, data, how in out] + [("a.parquet", file.getvalue(), pack)]


PIECES = [b'"', b"\0", b"\xff", b"\xef\xbb\xbf", b"\n", b",", b"[" * 3000, b"{", b"]", b"\\ud83d", b"null", b"1e999",
          b"9" * 400, b"\xed\xa0\xbd", b"\r", b"-", b'"' * 3, b"../../x", b"x" * 5000,
          "\u65e5".encode("utf-16")]  # fmt: skip


def mutate(data, draw):
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at, size = draw.randrange(len(data) + 1), draw.choice((1, 4, 60))
        kind = draw.randrange(5)
        if kind == 0:
            data[at : at + size] = draw.randbytes(size)
        elif kind == 1:
            data[at:at] = draw.choice(PIECES)
        elif kind == 2:
            del data[at : at + size]
        elif kind == 3:
            del data[at:]
        else:
            data[at:at] = data[max(0, at - 300) : at] * draw.choice((1, 1, 300))
    return bytes(data)
