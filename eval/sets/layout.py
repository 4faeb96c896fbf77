"""CLIP_benchmark's layout of an evaluation set (DataComp's too): read it, and write any set into it.

ROOT/classnames.txt, ROOT/zeroshot_classification_templates.txt, ROOT/dataset_type.txt (retrieval or multilabel;
absent for a classification), ROOT/SPLIT/nshards.txt, ROOT/SPLIT/{0.tar, 1.tar, ...} with .cls, .npy or .txt.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from mmclr.eval.progress import bar
from mmclr.eval.sets import shards as samples
from mmclr.eval.sets.evaluation_set import PLAIN, EvalSet, cut_captions, read_lines

from mmclr.config import nearest
from mmclr.data.tabular import rows
from mmclr.errors import UserError
from mmclr.storage import written

TEMPLATES = "zeroshot_classification_templates.txt"
MEMBERS = {"classification": "cls", "retrieval": "txt", "multilabel": "npy"}
KIND = "evaluation set"
READINGS = {"classification": samples.class_number, "retrieval": samples.text, "multilabel": samples.vector}
MAGIC = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp"}


def read(root: str | Path, split: str = "test", name: str = "") -> EvalSet:
    """Open a set in the layout."""
    root = Path(root)
    kind = _word(root / "dataset_type.txt", "classification")
    if kind not in MEMBERS:
        raise UserError(f"{root}/dataset_type.txt says {kind!r}; it may say retrieval or multilabel, or be absent")
    table = samples.read(_numbered(root / split), {MEMBERS[kind]: READINGS[kind]}, name or root.name)
    if kind == "retrieval":
        captions = [[line.replace("\\n", "\n") for line in text.split("\n")] for text in table.column(0)]
        return table.make(captions=[cut_captions(lines, []) for lines in captions])
    if not (root / "classnames.txt").is_file():
        raise UserError(f"{root}: no classnames.txt there; it names the classes, one a line, in the order of numbers")
    classnames = read_lines(root / "classnames.txt")
    templates = read_lines(root / TEMPLATES) if (root / TEMPLATES).is_file() else PLAIN
    table = (table.of_vectors if kind == "multilabel" else table.of_numbers)(0, len(classnames))
    labels = np.stack(table.column(0)).astype(np.uint8) if kind == "multilabel" else np.array(table.column(0), np.int64)
    return table.make(labels=torch.from_numpy(labels), classnames=classnames, templates=templates)


def write(
    data: EvalSet, root: str | Path, *, split: str = "test", shards: int = 8, reads: Iterable[str | Path] = ()
) -> Path:
    """Write a set: images as they are, dealt to `shards` files in turn; the whole of it takes its place at the end.

    Eight shards are what CLIP_benchmark's four loader processes can share. Captions make a retrieval set, classes
    a classification. `root` is new, empty or was written by this; its other splits stay. Raises UserError where it
    holds others' files, or what the set is read from (`reads`).
    """
    if data.items is not None and data.items.several:
        raise UserError(f"{data.name}: CLIP_benchmark's layout has one image for each sample, and these have several")
    kind = "retrieval" if data.labels is None else "multilabel" if data.multilabel else "classification"
    data.need_captions() if kind == "retrieval" else data.need_classes()
    shards = min(shards, len(data))
    with written.folder(root, KIND, reads, lambda name: "/" not in name or name.startswith(f"{split}/")) as out:
        folder = out / split
        folder.mkdir(parents=True)
        with bar(f"write {Path(root) / split}", len(data)) as advance:
            for number in range(shards):
                with tarfile.open(folder / f"{number}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
                    for i in range(number, len(data), shards):
                        _add(tar, f"s{i:07d}", dict(_members(data, i, MEMBERS[kind])))
                        advance(1)
        if kind != "classification":
            (out / "dataset_type.txt").write_text(kind + "\n")
        if kind != "retrieval":
            _write_classes(data, out)
        (folder / "nshards.txt").write_text(f"{shards}\n")
    return Path(root)


def _members(data: EvalSet, i: int, member: str) -> Iterator[tuple[str, bytes]]:
    image = data.read(i)
    yield MAGIC.get(image[:2], "jpg"), image
    if member == "txt":
        yield member, "\n".join(text.replace("\n", "\\n") for text in data.captions[i]).encode()
    elif member == "cls":
        yield member, str(int(data.classes[i])).encode()
    else:
        out = io.BytesIO()
        np.save(out, data.classes[i].numpy().astype(np.int64))
        yield member, out.getvalue()


def _add(tar: tarfile.TarFile, key: str, members: Mapping[str, bytes]) -> None:
    for extension, data in members.items():
        info = tarfile.TarInfo(f"{key}.{extension}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def _write_classes(data: EvalSet, root: Path) -> None:
    if isinstance(data.templates, Mapping):
        raise UserError("prompts of each class have no place in this layout; write the set without --templates FILE")
    for name, lines in (("classnames.txt", data.classnames), (TEMPLATES, data.templates)):
        if any("\n" in line or line != line.strip() for line in lines):
            raise UserError(
                f"{root}/{name}: a class name or template with line breaks or outer spaces cannot be written"
            )
        (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _numbered(folder: Path) -> list[str]:
    """Return the shards 0.tar to n - 1.tar of a split; nshards.txt must agree with what lies there."""
    if not folder.is_dir():
        splits = sorted(path.parent.name for path in folder.parent.glob("*/nshards.txt"))
        raise UserError(f"{folder}: no such split{nearest(folder.name, splits)}")
    said = _word(folder / "nshards.txt", "")
    if not said.isdigit() or int(said) < 1:
        raise UserError(f"{folder}/nshards.txt must hold the number of shards (it has {said or 'nothing'!r})")
    there = {path.name for path in folder.glob("*.tar")}
    expected = [f"{number}.tar" for number in range(int(said))]
    if there != set(expected):
        odd = sorted(set(expected) - there) or sorted(there - set(expected))
        what = "missing" if set(expected) - there else "not counted"
        raise UserError(f"{folder}/nshards.txt says {said}, but {len(there)} shards are there ({odd[0]} is {what})")
    return [str(folder / name) for name in expected]


def _word(path: Path, absent: str) -> str:
    return rows.read_text(path).strip() if path.is_file() else absent
