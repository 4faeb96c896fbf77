"""A fuzz of all that strangers give: shards, tables, overrides, model folders, columns. No traceback may end it.

python benchmarks/fuzz.py [--parts reader tables] [--seed 1] [--count N]: each part runs in a child, which is ended when
it takes too much memory and goes on behind the case that it died of. A finding is a case that raises anything but a
UserError (of commands: a status beyond 0, 1, 2, or a traceback in what they say), that takes more than 10 s of a CPU,
or more than 1 GiB beside a healthy case; what it needs to be tried again lies in the folder that is printed, and
`--parts PART --seed S --only CASE` runs it alone. The last line is JSON: by part what was tried and found.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
COUNTS = {
    "reader": 10_000,
    "commands": 200,
    "overrides": 2_000,
    "tables": 500,
    "folders": 200,
    "columns": 5_000,
    "scans": 10_000,
}
WRONG = ("tracebacks", "hangs", "memory", "deaths")
MOST = 6 << 30  # bytes of a child, after which it is ended
SILENT = 900.0  # seconds in which a child must end a case


def inside(part: str, seed: int, count: int, start: int, only: int | None) -> None:
    """Run the cases of a part from `start` on, a JSON line before and after each."""
    from tests.fuzz.guard import outcome, reset_peak
    from tests.fuzz.parts import PARTS

    folder = Path.cwd()
    healthy, case = PARTS[part](folder, seed, count)
    begin = time.monotonic()
    peak = 0
    for _ in range(2):
        end = outcome(healthy.run)
        if end.wrong and not (part == "commands" and end.wrong == "hang"):
            sys.exit(f"{part}: the healthy case is not: {end.said}")
        peak = max(peak, end.peak)
    tell({"healthy": peak, "seconds": time.monotonic() - begin})
    for number in [only] if only is not None else range(start, count):
        tell({"case": number})
        made = case(number)
        end = outcome(made.run, peak)
        if end.wrong:
            keep(Path(os.environ["FUZZ_KEPT"]) / f"{part}-{seed}-{number}", made.files, end.said)
        tell(
            {
                "name": made.name,
                "wrong": end.wrong,
                "said": end.said[-3000:],
                "more": end.peak - peak,
                "seconds": end.seconds,
            }
        )
    reset_peak()


def tell(row: dict[str, Any]) -> None:
    """Write a line to the parent, whatever the case has done with standard output."""
    os.write(int(os.environ["FUZZ_OUT"]), (json.dumps(row) + "\n").encode())


def keep(place: Path, files: dict[str, bytes], said: str) -> None:
    for name, data in {**files, "said.txt": said.encode("utf-8", "replace")}.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)


class Part:
    """A part, run in children until all cases are done."""

    def __init__(self, name: str, seed: int, count: int, kept: Path, only: int | None) -> None:
        self.name, self.seed, self.count, self.kept, self.only = name, seed, count, kept, only
        self.found = {"tried": 0, **dict.fromkeys(WRONG, 0), "most_memory_mib": 0, "longest_s": 0.0, "seconds": 0.0}
        self.case, self.done = 0, False

    def run(self) -> dict[str, Any]:
        """Run all cases; return what was found."""
        begin, start = time.monotonic(), 0
        while start < self.count and not self.done:
            self.case = -1
            why = self._child(start)
            if self.done:
                break
            if self.case < 0:
                sys.exit(f"{self.name}: the child cannot begin: {why}")
            self._finding("deaths", self.case, why)
            start = self.case + 1
        return {**self.found, "seconds": round(time.monotonic() - begin)}

    def _child(self, start: int) -> str:
        """Run a child; return why it ended."""
        read, write = os.pipe()
        numbers = {"seed": self.seed, "count": self.count, "start": start, "only": self.only}
        words = [word for name, value in numbers.items() if value is not None for word in (f"--{name}", str(value))]
        command = [sys.executable, __file__, "--inside", self.name, *words]
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "FUZZ_OUT": str(write),
            "FUZZ_KEPT": str(self.kept),
            "RUST_BACKTRACE": "0",
        }
        with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "said", "w+") as said:
            env |= {"XDG_CACHE_HOME": f"{folder}/cache", "HOME": folder}
            child = subprocess.Popen(command, env=env, cwd=folder, pass_fds=[write], stdout=said, stderr=said)
            os.close(write)
            os.set_blocking(read, False)
            why = self._watch(child, read)
            child.kill()
            child.wait()
            os.close(read)
            said.seek(0)
            return f"{why}: {said.read()[-3000:]}"

    def _watch(self, child: subprocess.Popen[bytes], read: int) -> str:
        from tests.fuzz.guard import peak_bytes

        rest, heard = b"", time.monotonic()
        while True:
            ended = child.poll() is not None
            with contextlib.suppress(BlockingIOError):
                data = os.read(read, 1 << 20)
                rest += data
                heard = time.monotonic()
            *lines, rest = rest.split(b"\n")
            for line in lines:
                self._row(json.loads(line))
            if ended and not lines:
                self.done = child.returncode == 0
                return f"it ended with {child.returncode}"
            with contextlib.suppress(OSError):
                if peak_bytes(child.pid, "VmRSS") > MOST:
                    return f"more than {MOST >> 30} GiB"
            if time.monotonic() - heard > SILENT:
                return f"no sign for {SILENT:.0f} s"
            time.sleep(0.05)

    def _row(self, row: dict[str, Any]) -> None:
        if "case" in row:
            self.case = row["case"]
        elif "wrong" in row:
            self.found["tried"] += 1
            self.found["most_memory_mib"] = max(self.found["most_memory_mib"], row["more"] >> 20)
            self.found["longest_s"] = max(self.found["longest_s"], round(row["seconds"], 2))
            if row["wrong"]:
                plural = {"traceback": "tracebacks", "hang": "hangs"}.get(row["wrong"], row["wrong"])
                self._finding(plural, self.case, f"{row['name']}: {row['said']}")
            if self.found["tried"] % 500 == 0:
                print(f"  {self.name}: {self.found}", flush=True)

    def _finding(self, kind: str, case: int, said: str) -> None:
        self.found[kind] += 1
        place = self.kept / f"{self.name}-{self.seed}-{case}"
        print(f"{self.name}: {kind} in case {case} of seed {self.seed}, kept in {place}:\n{said}\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=COUNTS, default=[*COUNTS])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, help=f"cases of each part (default {COUNTS})")
    parser.add_argument("--only", type=int, metavar="CASE", help="this case alone")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        inside(args.inside, args.seed, args.count, args.start, args.only)
        return
    kept = Path(tempfile.mkdtemp(prefix="fuzz-"))
    print(f"seed {args.seed}; what is found is kept in {kept}", flush=True)
    counts = {part: args.count or COUNTS[part] for part in args.parts}
    found = {part: Part(part, args.seed, count, kept, args.only).run() for part, count in counts.items()}
    print(json.dumps({"seed": args.seed, **found}))


if __name__ == "__main__":
    main()
