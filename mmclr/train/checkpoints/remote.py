"""A copy of a run's checkpoints beyond the machine's own disk: s3://, gs://, hf:// and whatever else fsspec has.

What is written there is whole once its position.json is: it is copied last, and deleted first.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from pathlib import Path

import fsspec

from mmclr.errors import UserError
from mmclr.train.checkpoints.folder import PARTIAL, POSITION, fault, folder_of, put_in_place

ATTEMPTS, PAUSE = 4, 2.0  # seconds, doubled each time


class Remote:
    """The run's folder at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self.files, self.root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise UserError(f"save.remote: {url}: {error}") from None

    def steps(self) -> list[int]:
        """Return after which steps there are whole checkpoints, in order."""
        self.files.invalidate_cache()
        found = self.files.glob(f"{self.root}/checkpoints/step-*/{POSITION}")
        return sorted(int(path.rsplit("/", 2)[-2].removeprefix("step-")) for path in found)

    def push(self, folder: Path, keep: int, pinned: int | None) -> None:
        """Copy a checkpoint there, then delete all but the `keep` newest (0: keep all) and the pinned one."""
        files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.name == POSITION)
        for path in files:
            self.put(path, f"checkpoints/{folder.name}/{path.relative_to(folder).as_posix()}")
        for step in self.steps()[:-keep] if keep else []:
            if step != pinned:
                self._delete(step)

    def put(self, path: Path, name: str) -> None:
        """Copy a file to `name`, with patience."""
        target = f"{self.root}/{name}"
        for attempt in range(ATTEMPTS):
            try:
                self.files.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
                self.files.put_file(str(path), target)
                return
            except Exception:  # every storage has errors of its own
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(PAUSE * 2**attempt)

    def pull(self, out: Path, step: int) -> str:
        """Copy a checkpoint into the run's folder `out`; or say why it is not whole, and leave `out` as it is."""
        folder = folder_of(out, step)
        partial = folder.with_name(f"{PARTIAL}{folder.name}-{socket.gethostname()}-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        root = f"{self.root}/checkpoints/{folder.name}"
        try:
            for source in self.files.find(root):
                target = partial / source[len(root) + 1 :]
                target.parent.mkdir(parents=True, exist_ok=True)
                self.files.get_file(source, str(target))
            wrong = fault(partial)
            if not wrong:
                put_in_place(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return wrong

    def set_aside(self, after: int) -> str:
        """Move the checkpoints of later steps than `after` into a folder of their own, as on the disk; return it."""
        later = [step for step in self.steps() if step > after]
        if not later:
            return ""
        numbers = (path.rstrip("/").rsplit("-", 1)[-1] for path in self.files.glob(f"{self.root}/checkpoints/aside-*"))
        aside = f"aside-{max((int(number) for number in numbers if number.isdigit()), default=0) + 1}"
        for step in later:
            name = folder_of(Path(), step).name
            here, there = (f"{self.root}/checkpoints/{place}" for place in (name, f"{aside}/{name}"))
            for source in sorted(self.files.find(here), key=lambda path: not path.endswith(f"/{POSITION}")):
                target = there + source[len(here) :]
                self.files.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
                self.files.mv(source, target)
            if self.files.exists(here):  # storage that has folders keeps them when they are empty
                self.files.rm(here, recursive=True)
        return f"{self.url}/checkpoints/{aside}"

    def _delete(self, step: int) -> None:
        folder = f"{self.root}/checkpoints/{folder_of(Path(), step).name}"
        position = json.loads(self.files.cat_file(f"{folder}/{POSITION}"))
        self.files.rm_file(f"{folder}/{POSITION}")  # first: what lacks it is not whole
        for name in position.get("files", ()):
            if self.files.exists(f"{folder}/{name}"):
                self.files.rm_file(f"{folder}/{name}")
        if not self.files.find(folder) and self.files.exists(folder):  # storage that has folders
            self.files.rm(folder, recursive=True)
