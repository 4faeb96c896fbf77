"""Check this machine, and a run before it starts; --fix mends what can be mended."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence, Set

from mmclr.config import nearest
from mmclr.display.secrets import redact_tree
from mmclr.display.terminal import say
from mmclr.doctor import environment
from mmclr.doctor.finding import Finding

REPAIRS = ("torchvision", "builds")
NO_UNDO = Finding("note", "builds", "the locks of killed builds were of no use to anybody, so none is put back")


def main(argv: list[str]) -> int:
    """Run `mmclr doctor`; return 1 if something is broken."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s [--fix [NAME] | --undo [NAME]] [CONFIG [key=value ...]]",
        description="Check this environment and, with a config, the run that it describes: shards open and are whole, "
        "a sample of images and captions decodes, sizes, steps, memory, disk. Nothing is trained. Every finding is "
        "one line: what, why, what to do. The exit status is 1 if something is broken.",
        epilog="examples: mmclr doctor; mmclr doctor --fix torchvision; "
        "mmclr doctor configs/base.yaml data.train='shards/{00000..00099}.tar'",
    )
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="a training config, as `mmclr train` takes it")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="overrides, as `mmclr train` takes them")
    parser.add_argument(
        "--fix",
        nargs="?",
        const="all",
        metavar="NAME",
        help="make a repair where it is due, after saying what it does (all without a NAME). torchvision: where "
        "it was built for CUDA and torch was not, an import hook in this environment's site-packages declares the "
        "operators that it then lacks, for every command; builds: locks of killed builds are removed",
    )
    parser.add_argument(
        "--undo", nargs="?", const="all", metavar="NAME", help="take a repair back (torchvision: remove the hook)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for each finding, one a line")
    args = parser.parse_intermixed_args(argv)
    fix, undo = _repairs(parser, args.fix), _repairs(parser, args.undo)
    if undo:
        found = [environment.remove_hook(environment.site_packages())] if "torchvision" in undo else [NO_UNDO]
        return _say(found, args.json)
    return _say(examine(args.config, args.overrides, fix), args.json)


def _repairs(parser: argparse.ArgumentParser, name: str | None) -> frozenset[str]:
    """Return the names of the repairs that were asked for."""
    if name is not None and name not in (*REPAIRS, "all"):
        parser.error(f"there is no repair {name!r}{nearest(name, REPAIRS)}; there are {', '.join(REPAIRS)}")
    return frozenset(REPAIRS if name == "all" else [name] if name else [])


def _say(findings: Iterable[Finding], as_json: bool) -> int:
    """Print findings as they come; return 1 if something is broken."""
    broken = 0
    for finding in findings:
        say(json.dumps(redact_tree(dataclasses.asdict(finding))) if as_json else finding, flush=True)
        broken += finding.level == "BROKEN"
    return 1 if broken else 0


def examine(config: str | None = None, overrides: Sequence[str] = (), fix: Set[str] = frozenset()) -> Iterator[Finding]:
    """Yield the findings about the environment and, where it works, about the run."""
    works = True
    for finding in environment.check(fix):
        yield finding
        works = works and finding.level != "BROKEN"
    if config is not None and works:
        from mmclr.doctor import run  # imports torch, so only now

        yield from run.check(config, overrides)
    elif config is not None:
        yield Finding("note", f"{config} was not checked", "the environment is broken", "mend that first")
