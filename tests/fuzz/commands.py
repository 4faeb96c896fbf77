"""Commands over damaged shards: each ends with a status of its own and a sentence, never with a traceback."""

import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mmclr import cli
from tests.data import mixed
from tests.fuzz import guard
from tests.fuzz.guard import Case

IN_CHILDREN = 20  # of so many cases one runs its commands in processes of their own
STATUSES = (0, 1, 2, None)
RUN = ["model.image.width=32", "model.text.width=32", "data.batch=4", "data.max_faults=1", "steps=2", "trackers=none",
       "diagnose_every=0", "threads=1", "data.caption={txt: 1, json:title: 1}"]  # fmt: skip


def command(args: list[str]) -> str:
    """Run a command in this process; return what it said. Raises AssertionError when it ends as none may."""
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            status = cli.main(args)
    except SystemExit as end:
        status = end.code
    return checked(args, status, out.getvalue())


def checked(args: list[str], status: object, said: str) -> str:
    assert status in STATUSES, f"status {status!r} of {args}: {said}"
    assert "Traceback" not in said, f"{args}: {said}"
    assert status == 0 or said.strip(), f"{args}: status {status} and not a word"
    return said


def child(args: list[str], seconds: float = guard.WALL) -> tuple[int, float]:
    """Run a command in a process of its own; return the most bytes it had in memory, and its seconds on a CPU."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([sys.executable, "-m", "mmclr.cli", *args], stdout=said, stderr=said)
        peak, end = 0, time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError):
                peak = max(peak, guard.peak_bytes(process.pid))  # that of wait4 begins with the parent's
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > end:
                os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        checked(args, process.returncode, said.read())
    return peak, used.ru_utime + used.ru_stime


def commands(folder: Path, seed: int, count: int) -> tuple[Case, Callable[[int], Case]]:
    """What people do with shards: verify, stats, reshard, peek, pack, evaluate twice, train."""
    from tests.exports import write_checkpoint

    model, out = write_checkpoint(folder / "model", names=("model",)), folder / "out"
    (folder / "classes.txt").write_text("a\nb\nc\n")
    shard = folder / "a.tar"
    lines = [
        ["data", "verify", f"{shard}", "--workers", "0", "--json", f"{out}/faults.jsonl"],
        ["data", "stats", f"{shard}", "--caption", "json:title"],
        ["data", "reshard", f"{shard}", f"{out}/shards", "--shuffle", "0"],
        ["data", "peek", f"{shard}", f"{out}/sheet.png", "--samples", "4"],
        ["data", "pack", f"{folder}/files", f"{out}/packed", "--workers", "0", "--caption", "title"],
        ["eval", "retrieval", f"{model}", "--data", f"{shard}", "--max-faults", "1", "--out", f"{out}/r.json"],
        ["eval", "zero_shot", f"{model}", "--data", f"{shard}", "--label", "cls", "--max-faults", "1",
         "--classnames", f"{folder}/classes.txt", "--out", f"{out}/z.json"],
        ["train", "debug.yaml", f"data.train={shard}", f"out={out}/run", *RUN],
    ]  # fmt: skip
    fuzz = Fuzz(folder, lines, seed, count)
    return Case("healthy", {}, fuzz.healthy), fuzz.case


class Fuzz:
    """Command lines over a folder whose shard and files are spoilt, case by case."""

    def __init__(self, folder: Path, lines: list[list[str]], seed: int, count: int) -> None:
        self.folder, self.lines, self.seed, self.count = folder, lines, seed, count
        self.well: dict[int, tuple[int, float]] = {}  # memory and seconds of each line in a process of its own, healthy

    def place(self, data: bytes, files: list[tuple[str, bytes]]) -> None:
        """Lay out a shard and files anew, and nothing else."""
        for old in ("out", "files", "a.tar.index"):
            path = self.folder / old
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        (self.folder / "out").mkdir()
        (self.folder / "files").mkdir()
        (self.folder / "a.tar").write_bytes(data)
        for name, content in files:
            if not name.endswith(("cls", "npy")):
                (self.folder / "files" / name).write_bytes(content)

    def healthy(self) -> None:
        """Run all lines over what is whole."""
        self.place(mixed.SHARDS[0], mixed.members())
        for line in self.lines:
            said = command(line)
            assert "left out" not in said, said
        if not self.well:
            self.place(mixed.SHARDS[0], mixed.members())
            self.well = {at: child(line) for at, line in enumerate(self.lines) if at < self.count}

    def apart(self, at: int) -> None:
        """Run a line in a process of its own, which takes about as much memory and time as over what is whole."""
        peak, seconds = child(self.lines[at])
        well = self.well[at]
        assert seconds - well[1] < guard.SECONDS, f"hang: {self.lines[at]}: {seconds:.0f} s, healthy {well[1]:.0f} s"
        assert peak - well[0] < guard.BYTES, f"memory: {self.lines[at]}: {peak - well[0]:,} bytes more than healthy"

    def case(self, number: int) -> Case:
        """Return a case: what is spoilt in it depends on its number alone."""
        draw = random.Random(f"{self.seed}-{number}")
        name, data = mixed.damaged(draw)
        files = mixed.changed(draw, 2)
        apart = number % IN_CHILDREN == IN_CHILDREN - 1

        def run() -> None:
            self.place(data, files)
            for at, line in enumerate(self.lines):
                if not apart:
                    command(line)
                elif at % 4 == number // IN_CHILDREN % 4:
                    self.apart(at)

        return Case(name, {"a.tar": data, **{f"files/{name}": content for name, content in files}}, run)
