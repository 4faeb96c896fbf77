"""Shards for the scripts in this folder, made of real pairs: picto by style, icons with a number, shuffled fields."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmclr.data_tools.commands.convert.icons import pack as pack_icons

HELD = "fluent"  # the style of picto's training part on which strengths are chosen; the test part is twemoji
Sample = dict[str, bytes]  # member -> bytes, without the key


def picto(data: Path, out: Path) -> dict[str, str]:
    """Return patterns of picto: train, test, and of the training part the style HELD and the rest."""
    folder = out / "picto"
    train = list(samples(sorted(data.glob("train-*.tar"))))
    if not train:
        raise SystemExit(f"{data}: no train-*.tar of picto; say where they are with --data")
    write(folder / "train.tar", train)
    write(folder / "test.tar", samples(sorted(data.glob("test-*.tar"))))
    for name, held in (("held", True), ("rest", False)):
        write(folder / f"{name}.tar", (s for s in train if (told(s)["style"] == HELD) == held))
    return {name: str(folder / f"{name}.tar") for name in ("train", "test", "held", "rest")}


def icons(data: Path, out: Path, keep: Callable[[dict[str, Any], int], bool]) -> dict[str, str]:
    """Return patterns of phosphor's icons with a weight of lines (json:stroke), and of other names for the test.

    Of ten names the last two are the test's, the one before them `held`; `keep(json, number of the name)` says which
    icons the training has. Images are drawn by `mmclr data icons`.
    """
    folder = out / "icons"
    pack_icons(folder / "all")
    drawn = [s for s in samples(sorted((folder / "all").glob("train-*.tar"))) if "stroke" in told(s)]
    names = {name: number for number, name in enumerate(sorted({told(s)["plain"] for s in drawn}))}
    parts: dict[str, list[Sample]] = {"train": [], "rest": [], "held": [], "test": []}
    for sample in drawn:
        number = names[told(sample)["plain"]]
        place = "test" if number % 10 > 7 else "held" if number % 10 == 7 else ""
        if place:
            parts[place].append(sample)
        if place != "test" and keep(told(sample), number):
            parts["train"].append(sample)
            parts["rest"] += [sample] if not place else []
    for name, found in parts.items():
        write(folder / f"{name}.tar", found)
    return {name: str(folder / f"{name}.tar") for name in parts}


def samples(paths: Sequence[Path]) -> Iterator[Sample]:
    """Yield the samples of shards, whose members lie side by side."""
    for path in paths:
        with tarfile.open(path) as archive:
            key, found = "", Sample()
            for member in archive:
                own, _, extension = Path(member.name).name.partition(".")
                if own != key and found:
                    yield found
                    found = {}
                reader = archive.extractfile(member)
                assert reader is not None
                key, found[extension] = own, reader.read()
            if found:
                yield found


def told(sample: Sample) -> dict[str, Any]:
    """Return what a sample's json says."""
    return dict(json.loads(sample["json"]))


def with_fields(sample: Sample, **more: Any) -> Sample:
    """Return a sample whose json says more."""
    return {**sample, "json": json.dumps({**told(sample), **more}, ensure_ascii=False).encode()}


def shuffled(values: Sequence[Any], seed: int = 0) -> list[Any]:
    """Return values in an order that has nothing to do with theirs: what a control is told."""
    out = list(values)
    random.Random(seed).shuffle(out)
    return out


def with_shuffled(data: Path, out: Path, field: str) -> dict[str, str]:
    """Return patterns of picto as `picto` does; in each json `shuffled` is what `field` is of another sample."""
    return shuffle(picto(data, out), out / f"shuffled-{field}", field)


def shuffle(shards: Mapping[str, str], folder: Path, field: str) -> dict[str, str]:
    """Write shards to `folder` in whose json `shuffled` is what `field` is of another sample; return their patterns."""
    for name, path in shards.items():
        if not (folder / f"{name}.tar").is_file():
            known = list(samples([Path(path)]))
            other = shuffled([told(sample)[field] for sample in known])
            write(folder / f"{name}.tar", (with_fields(s, shuffled=value) for s, value in zip(known, other)))
    return {name: str(folder / f"{name}.tar") for name in shards}


def write(path: Path, found: Any) -> None:
    """Write a shard, unless it is there."""
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with tarfile.open(partial, "w") as archive:
        for number, sample in enumerate(found):
            for extension, data in sample.items():
                member = tarfile.TarInfo(f"{number:06d}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    partial.rename(path)
