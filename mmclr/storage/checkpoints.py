"""The whole checkpoints of a run: for runs that go on from them, and for readers of a model alone.

    RUN/checkpoints/step-00000500/position.json      {..., "files": {name: bytes}, "crc32": {name: CRC-32}, "checksum"}

position.json is written last and names every other file with its size and checksum; its own checksum is that of the
rest of its content. Checkpoints of before have sizes alone, or nothing, and are read as they are.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmclr.errors import UserError
from mmclr.storage.whole_file import checksum

POSITION = "position.json"
EVERYTHING = ("",)  # names of files begin with it
NAME = re.compile(r"step-(\d{8,})")


def seal(position: Mapping[str, Any], folder: Path) -> str:
    """Return the text of position.json for a folder whose other files are written."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    tree = {
        **position,
        "files": {name: path.stat().st_size for name, path in names.items()},
        "crc32": {name: checksum(path) for name, path in names.items()},
    }
    return json.dumps({**tree, "checksum": _own(json.loads(json.dumps(tree)))}, indent=2)


def _own(tree: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(tree, sort_keys=True).encode())


def read_position(folder: Path) -> dict[str, Any]:
    """Return what position.json holds. Raises ValueError where it is not what was written."""
    path = folder / POSITION
    try:
        position = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path}: brackets without end") from None
    if not isinstance(position, dict) or type(position.get("step")) is not int:
        raise ValueError(f"{path}: no step in it")
    if position.keys() & {"crc32", "checksum"}:
        rest = {key: value for key, value in position.items() if key != "checksum"}
        if "crc32" not in rest or position.get("checksum") != _own(rest):
            raise ValueError(f"{path}: its content is not what was written")
    name = NAME.fullmatch(folder.name)
    if name and int(name[1]) != position["step"]:
        raise ValueError(f"{path}: of another step than the folder's")
    return position


def fault(folder: Path, read: tuple[str, ...] = EVERYTHING) -> str:
    """Say why a checkpoint is not whole; nothing if it is.

    All files are known by their sizes; those whose names begin with one of `read` are read and compared with their
    checksums.
    """
    try:
        position = read_position(folder)
    except (FileNotFoundError, NotADirectoryError):
        return f"{POSITION} is missing"
    except (ValueError, OSError):
        return f"{POSITION} is damaged"
    sizes, sums = position.get("files", {}), position.get("crc32", {})
    if not isinstance(sizes, dict) or not isinstance(sums, dict):
        return f"{POSITION} is damaged"
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} of {size} bytes"
    for name, value in sums.items():
        if name.startswith(read) and _differs(folder / name, value):
            return f"{name} is damaged: its checksum is not that of what was written"
    return ""


def _differs(path: Path, value: int) -> bool:
    try:
        return checksum(path) != value
    except OSError:  # the disk cannot read it
        return True


def all_of(out: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, whole or not, oldest first."""
    return sorted((path for path in (out / "checkpoints").glob("step-*") if NAME.fullmatch(path.name)), key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def latest(out: Path, passed: dict[Path, str] | None = None, read: tuple[str, ...] = EVERYTHING) -> Path | None:
    """Return the newest whole checkpoint of a run, or None; `passed` takes newer ones with what is wrong with them."""
    for path in reversed(all_of(out)):
        wrong = fault(path, read)
        if not wrong:
            return path
        if passed is not None:
            passed[path] = wrong
    return None


def refuse(folder: Path, read: tuple[str, ...] = EVERYTHING) -> None:
    """Raise UserError where a checkpoint that somebody named is not whole."""
    if wrong := fault(folder, read):
        raise UserError(f"{folder}: this checkpoint is not whole ({wrong}); name another, or the run's folder")
