"""Check that an objective keeps the laws of all objectives, wherever it lies.

FILE is a Python file, a module, or the key of an objective; key=value sets its fields. Each law that is not kept is a
sentence. The status is 0 if all are kept, 1 if not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import traceback
from collections.abc import Iterator

from mmclr import plugins
from mmclr.config import merge, nearest, parse_override
from mmclr.display.terminal import say
from mmclr.errors import UserError
from mmclr.laws import LAWS
from mmclr.laws.case import Case
from mmclr.laws.law import Broken, Law
from mmclr.losses import build, catalogue
from mmclr.losses.objective import OPTIONS


@dataclasses.dataclass(frozen=True)
class Finding:
    """The verdict of one law on one objective."""

    objective: str
    law: str
    says: str  # what holds
    kept: bool
    seen: str  # what was seen instead, "" where it is kept


def judge(case: Case, law: Law) -> Finding:
    """Hold an objective to a law."""
    seen = ""
    for world in law.worlds or (1,):
        try:
            law.check(case, *[world] * bool(law.worlds))
        except Broken as error:
            seen = str(error)
        except Exception as error:
            seen = _raised(error)
        if seen:
            break
    return Finding(str(case), law.name, law.says, not seen, seen)


def _raised(error: Exception) -> str:
    """Return an error that an objective raised on a line: what, and at which line of code that is not ours."""
    lines = str(error).strip().splitlines() or [""]
    said = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if f.filename in plugins.files().values()]
    at = f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else ""
    return f"{type(error).__name__}: {said}{at}"


def cases(source: str, overrides: list[str]) -> list[Case]:
    """Return the objectives of a file, a module, or the one of a key, with fields set."""
    fields: dict[str, object] = {}
    for text in overrides:
        fields = merge(fields, parse_override(text))
    if source in catalogue():
        found = [Case(source, fields)]
    elif not plugins.is_file(source) and not plugins.is_module(source):
        raise UserError(f"{source}: no file (.py), no module, and no objective{nearest(source, catalogue())}")
    else:
        plugins.load([source], "check")
        inside = plugins.module_of(source)
        keys = [k for k, c in catalogue().items() if c.__module__ == inside or c.__module__.startswith(f"{inside}.")]
        found = [Case(key, fields, (source,)) for key in keys]
    if not found:
        raise UserError(f"{source}: it defines no objective; write class Mine(Objective, key='mine'): ...")
    for case in found:
        build(case.key, {name: value for name, value in fields.items() if name not in OPTIONS}, case.key)
    return found


def findings(found: list[Case], laws: list[Law]) -> Iterator[Finding]:
    """Hold each objective to each law that applies to it."""
    for case in found:
        for law in laws:
            if law.applies(case):
                yield judge(case, law)


def main(argv: list[str]) -> int:
    """Check objectives; return 0 if all laws are kept, 1 if not."""
    parser = argparse.ArgumentParser(
        "mmclr check",
        description=__doc__,
        epilog="example: mmclr check own.py margin=0.5     (the laws of several processes take half a minute: --quick)",
    )
    parser.add_argument("source", metavar="FILE", help="a Python file, a module, or an objective's key")
    parser.add_argument("fields", nargs="*", metavar="key=value", help="fields that are not at their default")
    parser.add_argument("--quick", action="store_true", help="leave out the laws of several processes")
    parser.add_argument(
        "--without", action="append", default=[], metavar="LAW", choices=sorted(LAWS), help="leave out a law"
    )
    parser.add_argument("--json", action="store_true", help="print what each law says as JSON, for scripts")
    args = parser.parse_intermixed_args(argv)
    laws = [law for law in LAWS.values() if law.name not in args.without and not (args.quick and law.worlds)]
    told = []
    for finding in findings(cases(args.source, args.fields), laws):
        told.append(finding)
        if not args.json:
            say(_line(finding), flush=True)
    broken = [finding for finding in told if not finding.kept]
    if args.json:
        say(json.dumps([dataclasses.asdict(finding) for finding in told], indent=1))
    else:
        left_out = len(LAWS) - len(laws)
        say(_summary(len(told), len(broken)) + (f" ({left_out} laws were left out)" if left_out else ""))
    return 1 if broken else 0


def _line(finding: Finding) -> str:
    mark = "  ok   " if finding.kept else "FAILS  "
    return f"{mark}{finding.objective} {finding.law}: {finding.says if finding.kept else finding.seen}"


def _summary(told: int, broken: int) -> str:
    return f"{told} laws are kept" if not broken else f"{broken} of {told} laws are not kept"
