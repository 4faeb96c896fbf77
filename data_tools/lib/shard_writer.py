"""Writes webdataset shards that are whole or not there, and goes on where an interrupted writing stopped."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

from mmclr.errors import UserError
from mmclr.storage.written import check, make_folder, write

STATE, KIND = "packed.json", "packed shards"


class ShardWriter:
    """Writes FOLDER/PREFIX-00000.tar, ... in USTAR with all times 0: the same samples give the same bytes.

    A name beyond what USTAR holds (100 bytes, and folders before it) is written with a PAX header.

    Each shard appears under its name when it is complete, and packed.json then says how many inputs are done:
    another run with the same settings goes on from `done`. A shard is full at `samples` samples or `size` bytes. What
    packed.json does not name is not ours: it is refused before the first sample, and never replaced.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any], samples: int, size: int, prefix: str = "") -> None:
        """Open a folder. Raises UserError when it holds shards that were written with other settings."""
        self.folder, self.samples, self.size, self.prefix = Path(folder), samples, size, prefix
        self._digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        make_folder(self.folder)
        self.state: dict[str, Any] = {
            "settings": settings,
            "digest": self._digest,
            "done": 0,
            "shards": [],
            "left_out": {},
        }
        self._resume()
        self._tar: tarfile.TarFile | None = None
        self._count = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        """Drop a shard that is not complete."""
        if self._tar is not None:
            self._tar.fileobj.close()  # without the end of an archive
            self._part.unlink()
            self._tar = None

    @property
    def done(self) -> int:
        """Number of inputs that earlier runs have dealt with."""
        return self.state["done"]

    @property
    def finished(self) -> bool:
        """Whether an earlier run with these settings came to the end."""
        return self.state.get("finished", False)

    def add(self, key: str, members: dict[str, bytes], at: int) -> None:
        """Write one sample; `at` is the number of inputs that are done with it."""
        tar = self._tar or self._open(at)
        for extension, data in members.items():
            info = _header(f"{key}.{extension}", len(data))
            tar.format = _format(info)  # type: ignore[assignment]  # one of tarfile's own numbers
            tar.addfile(info, io.BytesIO(data))
        self._count += 1
        if self._count >= self.samples or tar.offset >= self.size:
            self._close(at)

    def leave_out(self, reason: str) -> None:
        """Count an input that gives no sample."""
        self.state["left_out"][reason] = self.state["left_out"].get(reason, 0) + 1

    def finish(self, at: int) -> dict[str, Any]:
        """Close the last shard and return what was written."""
        self._close(at)
        self.state["finished"] = True
        self._save(at)
        return self.state

    def keep(self, name: str, value: Any) -> Any:
        """Keep a value (JSON) in packed.json, for the next call with these settings; return it."""
        self.state[name] = value
        self._save(self.done)
        return value

    def _open(self, at: int) -> tarfile.TarFile:
        """Begin a shard under a name that packed.json says is ours."""
        self._part = self.folder / f"{self._name()}.tmp"
        self._refuse(self._part, self.folder / self._name())
        if self.state.get("part") != self._part.name:
            self.state["part"] = self._part.name
            self._save(self.state["done"])
        self._tar = tarfile.open(self._part, "x", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        return self._tar

    def _close(self, at: int) -> None:
        if self._tar is None:
            return
        self._tar.close()
        self._tar = None
        path = self.folder / self._name()
        self.state["shards"].append({"name": path.name, "samples": self._count, "bytes": self._part.stat().st_size})
        self._count = 0
        self._refuse(path)
        self._save(at)  # first: a shard with its name is always one that packed.json names
        os.rename(self._part, path)

    def _name(self) -> str:
        return f"{self.prefix}{len(self.state['shards']):05d}.tar"

    def _save(self, at: int) -> None:
        self.state["done"] = at
        write(self.folder / STATE, json.dumps(self.state, indent=1), KIND, _is_state)

    def _resume(self) -> None:
        path = self.folder / STATE
        check(path, KIND, _is_state)
        if path.is_file():
            state = json.loads(path.read_text())
            if state["digest"] == self._digest:
                self.state = state
            elif state["shards"]:
                raise UserError(f"{path}: this folder was packed with other settings; name another folder or empty it")
            self._mend(state)
        known = {shard["name"] for shard in self.state["shards"]}
        self._refuse(*(p for p in sorted(self.folder.glob(f"{self.prefix}*.tar")) if p.name not in known))
        if not self.finished:
            self._refuse(self.folder / f"{self._name()}.tmp")

    def _mend(self, state: dict[str, Any]) -> None:
        """Give the last shard its name where a kill came before that; remove one that is not complete."""
        part = self.folder / str(state.get("part", ""))
        if part.suffix != ".tmp" or part.parent != self.folder or part.is_symlink() or not part.is_file():
            return
        last = state["shards"][-1] if state["shards"] else {}
        whole = f"{last.get('name')}.tmp" == part.name and last["bytes"] == part.stat().st_size
        if whole and not (self.folder / last["name"]).exists():
            os.rename(part, self.folder / last["name"])
        else:
            part.unlink()

    def _refuse(self, *paths: Path) -> None:
        for path in paths:
            if os.path.lexists(path):
                raise UserError(f"{path} was not written by this command: name another folder")


def _is_state(start: bytes) -> bool:
    """Whether packed.json is one that this wrote."""
    return start.startswith(b'{\n "settings": ') and b'"digest"' in start


def _header(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    if "\0" in name:  # a header's field would end there
        info.pax_headers = {"path": name}
    return info


def _format(info: tarfile.TarInfo) -> int:
    if len(info.name) <= 33 and not info.pax_headers:  # 100 bytes at most, whatever letters
        return tarfile.USTAR_FORMAT
    try:
        info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
    except ValueError:
        return tarfile.PAX_FORMAT
    return tarfile.PAX_FORMAT if info.pax_headers else tarfile.USTAR_FORMAT
