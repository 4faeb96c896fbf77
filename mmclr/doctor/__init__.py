"""Check a machine, and a run before it starts."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from mmclr.doctor import environment
from mmclr.doctor.finding import Finding
from mmclr.terminal import say


def main(argv: list[str]) -> int:
    """Run `mmclr doctor`; return 1 if something is broken."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s [--fix] [CONFIG [key=value ...]]",
        description="Check this environment and, with a config, the run that it describes: shards open and are whole, "
        "a sample of pictures and captions decodes, sizes, steps, memory, disk. Nothing is trained. Every finding is "
        "one line: what, why, what to do. The exit status is 1 if something is broken.",
        epilog="examples: mmclr doctor --fix; mmclr doctor configs/base.yaml data.train='shards/{00000..00099}.tar'",
    )
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="a training config, as `mmclr train` takes it")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="overrides, as `mmclr train` takes them")
    parser.add_argument(
        "--fix",
        action="store_true",
        help="mend what can be mended: where torchvision was built for CUDA and torch was not, declare the operators "
        "that torchvision then lacks, for every command of this environment",
    )
    args = parser.parse_intermixed_args(argv)
    broken = 0
    for finding in examine(args.config, args.overrides, args.fix):
        say(finding, flush=True)
        broken += finding.level == "BROKEN"
    return 1 if broken else 0


def examine(config: str | None = None, overrides: Sequence[str] = (), fix: bool = False) -> Iterator[Finding]:
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
