"""What differs between two runs, value by value: their logs, every tensor of their checkpoints, their places."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

CLOCKS = {"samples_per_s", "data_wait", "left_s", "memory_gib", "threads", "seconds", "compute_s", "time"}

# Names of tensors that are otherwise by now: (pattern, replacement), of the old names.
RENAMED = [(r"\bsources\.\d+\.model\.", "providers.student.model.")]


class Difference(NamedTuple):
    """One value that is not the same."""

    where: str  # "FILE NAME", with the step for a row of the log
    how: str
    share: float = math.inf  # of the larger value, by which two numbers differ


def differences(old: Path, new: Path, since: int = 0) -> tuple[list[Difference], int, int]:
    """Return what differs between two runs, and how many numbers and tensors were compared."""
    found, numbers, tensors = [], 0, 0
    rows = [{key(row): flat(row) for row in map(json.loads, (run / "log.jsonl").open())} for run in (old, new)]
    for at in sorted({*rows[0], *rows[1]}):
        if at[0] <= since:
            continue
        a, b = (row.get(at, {}) for row in rows)
        for name in sorted({*a, *b} - CLOCKS):
            numbers += 1
            if a.get(name) != b.get(name):
                where, how = f"log.jsonl {at[0]} {name}", f"{a.get(name)} -> {b.get(name)}"
                found.append(Difference(where, how, share(a.get(name), b.get(name))))
    for folder in sorted((old / "checkpoints").glob("step-*")):
        if int(folder.name[5:]) <= since:
            continue
        for file in sorted({f.relative_to(old) for f in folder.rglob("*.safetensors")}):
            count, other = compare_tensors(old / file, new / file)
            tensors += count
            found += [Difference(f"{file} {name}", how, far) for name, how, far in other]
        a, b = (json.loads((run / folder.relative_to(old) / "position.json").read_text()) for run in (old, new))
        a, b = ({n: v for n, v in flat(each).items() if not n.startswith("files.")} for each in (a, b))  # no sizes
        for n in sorted(a):
            if a[n] != b.get(n):
                found.append(Difference(f"position.json {n}", f"{a[n]} -> {b.get(n)}", share(a[n], b.get(n))))
    return found, numbers, tensors


def flat(row: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested values by their path; what is not finite is None, as logs say it by now."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, list):
            value = {str(number): each for number, each in enumerate(value)}
        if isinstance(value, dict):
            found |= flat(value, f"{above}{name}.")
        else:
            found[above + name] = None if isinstance(value, float) and not math.isfinite(value) else value
    return found


def key(row: dict[str, Any]) -> tuple[int, str]:
    """Return what a row of a log is about: its step and, for evaluations, which one."""
    return row.get("step", -1), ",".join(sorted(n.partition("/")[0] for n in row if "/" in n))


def share(a: Any, b: Any) -> float:
    """Return how far two numbers are from each other, as a share of the larger; infinite where one is none."""
    numbers = all(isinstance(x, float | int) for x in (a, b))
    return abs(a - b) / max(abs(a), abs(b)) if numbers else math.inf


def compare_tensors(old: Path, new: Path) -> tuple[int, list[tuple[str, str, float]]]:
    """Return how many tensors two files hold, and those that differ: name, how, and by which share."""
    if not new.is_file():
        return 0, [("", "is missing", math.inf)]
    a, b = load_file(old), load_file(new)
    for pattern, replacement in RENAMED:
        a = {re.sub(pattern, replacement, name): value for name, value in a.items()}
    other = []
    for name in sorted({*a, *b}):
        if name not in a or name not in b:
            other.append((name, f"is only in the {'new' if name in b else 'old'} run", math.inf))
        elif a[name].dtype != b[name].dtype or a[name].shape != b[name].shape:
            other.append((name, f"{a[name].dtype} {[*a[name].shape]} -> {b[name].dtype} {[*b[name].shape]}", math.inf))
        elif not torch.equal(bits(a[name]), bits(b[name])):
            far = (a[name].double() - b[name].double()).abs().max().item()
            other.append((name, f"differs by up to {far:.3g}", far / a[name].double().abs().max().item()))
    return len({*a, *b}), other


def bits(x: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a tensor."""
    return x.contiguous().view(-1).view(torch.uint8)
