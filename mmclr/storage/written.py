"""Files that we write: whole or not there, and never in the place of a file that somebody else wrote.

A folder that we write into holds a manifest: one JSON line for each file, with its name, size, SHA-256, and what wrote
it (`by`). A later call replaces or removes only files that stand there and still have these bytes; everything else is
refused in a sentence, or left alone. What is not finished has a name of its own until it is, so that a kill leaves the
old file or the new one; the next call removes what a kill left, if it is ours.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from mmclr import __version__
from mmclr.errors import UserError
from mmclr.storage import manifest
from mmclr.storage.whole_file import seal

PARTIAL, REPLACED = ".mmclr-part", ".mmclr-old"  # endings of names that files and folders have in between
HOW = "name another place, or remove it"
START = 1 << 16  # bytes
Known = Callable[[bytes], bool]


def _nothing(start: bytes) -> bool:
    return False


def check(path: str | Path, by: str, known: Known = _nothing) -> Path:
    """Return where a file is to be written, links followed; raise UserError where something else stands.

    Call it before the work whose result is written there. What stands there may be an earlier result of the same kind,
    or a device. `known` may tell from its first 64 KiB that a file is ours which no manifest has.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise UserError(f"{path}: a folder stands where a file is due; name a file")
    if path.is_file() and not manifest.holds(path, manifest.owned(path.parent).get(path.name, frozenset()), by):
        with open(path, "rb") as file:
            if not known(file.read(START)):
                raise UserError(f"{path}: exists and is not (or no longer) what mmclr wrote as {by}; {HOW}")
    return path


def write(path: str | Path, data: str | bytes, by: str, known: Known = _nothing) -> Path:
    """Write a file; return the path that was given. Raises UserError where it is not ours to replace."""
    data = data.encode() if isinstance(data, str) else data
    with staged(path, by, known) as partial, open(partial, "wb") as file:
        file.write(data)
    return Path(path)


@contextlib.contextmanager
def staged(path: str | Path, by: str, known: Known = _nothing) -> Iterator[Path]:
    """Give a name beside `path` for a file that gets the name at the end, if nothing was raised."""
    place = check(path, by, known)
    if place.exists() and not place.is_file():
        yield place  # /dev/stdout, a pipe
        return
    make_folder(place.parent)
    _sweep_files(place)
    partial = place.with_name(f".{place.name}.{os.getpid()}{PARTIAL}")
    manifest.note(place.parent, _begun(partial))
    try:
        partial.open("xb").close()
    except FileExistsError:
        raise UserError(f"{partial}: mmclr needs this name, and did not make what stands there; move it away") from None
    try:
        yield partial
        check(place, by, known)  # once more: hours may have passed
        seal(partial, place)
        manifest.note(place.parent, manifest.line_of(place.name, partial, by))
        os.replace(partial, place)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def claim(path: str | Path, by: str, known: Known = _nothing) -> Path:
    """Make a file ours that grows line by line, where there is none; return its place, links followed.

    Raises UserError where a file is that was not claimed, unless `known` tells that it is ours, as in `check`.
    """
    path = Path(os.path.realpath(path))
    make_folder(path.parent)
    if path.is_dir():
        raise UserError(f"{path}: a folder stands where a file is due; name a file")
    if path.is_file() and path.stat().st_size:
        if any(who == by for who, _ in manifest.owned(path.parent).get(path.name, ())):
            return path
        with open(path, "rb") as file:
            if not known(file.read(START)):
                raise UserError(f"{path}: exists and is not what mmclr wrote as {by}; {HOW}")
    if not path.exists() or path.is_file():
        manifest.note(path.parent, {"name": path.name, "by": by, "sha256": "", "mmclr": __version__})
    return path


def remove(path: str | Path, by: str) -> None:
    """Remove a file of ours, if there is one; raises UserError where it is somebody else's."""
    path = Path(path)
    if os.path.lexists(path):
        if path.is_symlink():
            raise UserError(f"{path}: a link that mmclr did not make; {HOW}")
        check(path, by).unlink()


@contextlib.contextmanager
def folder(
    out: str | Path, by: str, reads: Iterable[str | Path] = (), part: Callable[[str], bool] = lambda name: True
) -> Iterator[Path]:
    """Give an empty folder beside `out` that takes its place at the end, if nothing was raised.

    `out` may be new, empty, or written `by` the same before. Files of ours for whose names `part` is true are replaced
    or removed, all others stay; what is somebody else's stays, too. Raises UserError where a file of ours was changed,
    where a new one would replace what is not ours, or where `out` holds what is read.
    """
    given, out = out, Path(os.path.realpath(out))
    _refuse_reads(out, reads)
    make_folder(out.parent)
    partial, replaced = (out.with_name(f".{out.name}{ending}") for ending in (PARTIAL, REPLACED))
    _sweep_folders(out, partial, replaced)
    old = _check_folder(out, by, given)
    partial.mkdir()
    try:
        manifest.note(partial, _begun(partial))
        yield partial
        names = _files(partial) - {manifest.MANIFEST}
        lines = [manifest.line_of(name, partial / name, by) for name in names]
        others = sorted(_files(out) - old - {manifest.MANIFEST}) if out.is_dir() else []
        stale = {name for name in old if part(name)}
        _refuse_others(out, names, {*others, *(old - stale)})
        if others or stale != old or not _swap(out, partial, replaced, lines):
            _merge(out, partial, names, stale, lines)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove_listed(folder: Path, names: Iterable[str]) -> None:
    """Remove the files of a folder that are named, then the folders that this leaves empty, `folder` too."""
    for name in names:
        if manifest.inside(folder, name):
            (folder / name).unlink(missing_ok=True)
    for path in sorted((p for p in folder.rglob("*") if p.is_dir() and not p.is_symlink()), reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir()
    with contextlib.suppress(OSError):
        folder.rmdir()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; a file that stands in the way is told."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder}: a file stands where a folder is due; name another place") from None


def _check_folder(out: Path, by: str, given: str | Path) -> set[str]:
    """Return the names of our files in `out`; raise where there are none but others, or one was changed."""
    if not os.path.lexists(out):
        return set()
    if not out.is_dir():
        raise UserError(f"{out}: a file stands where a folder is due; name another folder")
    if not any(out.iterdir()):
        return set()
    known = {name: kinds for name, kinds in manifest.owned(out).items() if any(who == by for who, _ in kinds)}
    if not known:
        raise UserError(f"{given} exists and is not an {by} of mmclr; name another folder")
    there = {name for name in known if manifest.inside(out, name) and os.path.lexists(out / name)}
    changed = sorted(name for name in there if not manifest.holds(out / name, known[name], by))
    if changed:
        raise UserError(f"{out / changed[0]}: was changed since mmclr wrote it; move it away, or name another folder")
    return there


def _files(folder: Path) -> set[str]:
    """Return the names of all that is in a folder and no folder itself."""
    found = set()
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        found |= {Path(root, name).relative_to(folder).as_posix() for name in [*files, *links]}
    return found


def _refuse_reads(out: Path, reads: Iterable[str | Path]) -> None:
    for source in reads:
        real = Path(os.path.realpath(source))
        above = [path for path in (real, *real.parents) if path.exists()]
        if out.exists() and any(path.samefile(out) for path in above):
            raise UserError(f"{source}: it is read, and it lies in {out}, which is to be written; name another folder")


def _refuse_others(out: Path, names: Iterable[str], others: set[str]) -> None:
    """Raise where a new file would replace one of `others`, or a folder, or lie behind one."""
    for name in sorted(names):
        above = ["/".join(PurePosixPath(name).parts[:n]) for n in range(1, len(PurePosixPath(name).parts) + 1)]
        wrong = next((path for path in above if path in others), None) or (name if (out / name).is_dir() else None)
        if wrong:
            raise UserError(f"{out / wrong}: is in the way, and not mmclr's to replace; move it away, or {HOW}")


def _swap(out: Path, partial: Path, replaced: Path, lines: list[dict[str, object]]) -> bool:
    """Put a folder in the place of one that holds nothing but ours; say whether the system lets us."""
    for line in lines:
        manifest.note(partial, line)
    if out.exists():
        shutil.copymode(out, partial)
        try:
            os.rename(out, replaced)
        except OSError:  # the place where a disk is mounted
            return False
    try:
        os.rename(partial, out)
    except OSError:
        if os.path.lexists(replaced):
            os.rename(replaced, out)
        raise
    _remove_replaced(replaced)
    return True


def _merge(out: Path, partial: Path, names: set[str], stale: set[str], lines: list[dict[str, object]]) -> None:
    """Move new files into a folder that holds others, too, file by file, and remove what they replace."""
    for line in lines:
        manifest.note(out, line)
    for name in sorted(names):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial / name, out / name)
    for name in stale - names:
        (out / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (out / name).parent.rmdir()
    shutil.rmtree(partial, ignore_errors=True)


def _sweep_folders(out: Path, partial: Path, replaced: Path) -> None:
    """Put back, or remove, what a killed call left beside `out`."""
    if os.path.lexists(replaced):
        if not (manifest.owned(replaced) or _bare(replaced)):
            raise UserError(f"{replaced}: mmclr needs this name, and did not make what stands there; move it away")
        if not os.path.lexists(out):
            os.rename(replaced, out)
        else:
            _remove_replaced(replaced)
    if os.path.lexists(partial):
        begun = [line for line in manifest.lines(partial) if line.get("part") == partial.name]
        ours = begun or manifest.owned(partial) or _bare(partial)
        if partial.is_symlink() or not ours:
            raise UserError(f"{partial}: mmclr needs this name, and did not make what stands there; move it away")
        if begun and manifest.lives(begun[0]):
            raise UserError(f"{out}: another process is writing there; wait for it, or name another folder")
        shutil.rmtree(partial)


def _bare(folder: Path) -> bool:
    """Whether there is no file in a folder, or but a manifest."""
    return folder.is_dir() and _files(folder) <= {manifest.MANIFEST}


def _begun(partial: Path) -> dict[str, object]:
    return {"part": partial.name, "host": socket.gethostname(), "pid": os.getpid()}


def _sweep_files(place: Path) -> None:
    """Remove half files that killed calls left of `place`."""
    left = list(place.parent.glob(f".{_literal(place.name)}.*{PARTIAL}"))
    lines = manifest.lines(place.parent) if left else ()  # a folder of thousands of files has a long manifest
    begun = {line["part"]: line for line in lines if isinstance(line.get("part"), str)}
    for path in left:
        if path.name in begun and path.is_file() and not path.is_symlink() and not manifest.lives(begun[path.name]):
            path.unlink(missing_ok=True)


def _literal(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _remove_replaced(replaced: Path) -> None:
    """Remove a folder of ours that another took the place of; what is not ours in it stays."""
    if replaced.is_dir():
        remove_listed(replaced, manifest.owned(replaced))
        if _bare(replaced):
            remove_listed(replaced, [manifest.MANIFEST])
