"""Check a machine, and a run before it starts."""

from __future__ import annotations

import argparse

from mmclr.doctor import environment


def main(argv: list[str]) -> int:
    """Run `mmclr doctor`; return 1 if something is broken."""
    parser = argparse.ArgumentParser(
        description="Check this environment. Every finding is one line: what, why, what to do. "
        "The exit status is 1 if something is broken.",
        epilog="example: mmclr doctor --fix",
    )
    parser.add_argument(
        "--fix",
        action="store_true",
        help="mend what can be mended: where torchvision was built for CUDA and torch was not, declare the operators "
        "that torchvision then lacks, for every command of this environment",
    )
    args = parser.parse_args(argv)
    broken = 0
    for finding in environment.check(args.fix):
        print(finding, flush=True)
        broken += finding.level == "BROKEN"
    return 1 if broken else 0
