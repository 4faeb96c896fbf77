"""The evaluations of every run of a comparison: suites of `mmclr eval`, with their own options."""

from __future__ import annotations

import contextlib
import io
import shlex
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass

from mmclr.config import nearest
from mmclr.errors import UserError
from mmclr.eval import suites
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.result import Result


@dataclass(frozen=True)
class Measure:
    """One suite with its options, under a name that no other measure of the comparison has."""

    name: str
    suite: str
    options: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, test: str, taken: Sequence[str]) -> Measure:
        """Read NAME[:options], options as on the command line of `mmclr eval NAME`; --data is `test` if not given.

        Raises UserError where there is no such suite, or it does not take the options.
        """
        suite, _, given = text.partition(":")
        suite = suite.strip()
        if suite not in suites.names():
            raise UserError(f"--suite {text}: there is no suite {suite!r}{nearest(suite, suites.names())}")
        try:
            options = shlex.split(given)
        except ValueError as error:
            raise UserError(f"--suite {text}: {error}") from None
        if not any(option.partition("=")[0] == "--data" for option in options):
            options = ["--data", test, *options]
        name, number = suite, 1
        while name in taken:
            number += 1
            name = f"{suite}-{number}"
        return cls(name, suite, tuple(options))

    def check(self) -> None:
        """Open what it is measured on, so that faults are found before hours of training. Raises UserError."""
        suites.find(self.suite).open(self._arguments())

    def run(self, embedder: Embedder) -> Result:
        """Measure a model."""
        return suites.find(self.suite).measure(list(self.options), embedder)

    def _arguments(self) -> Namespace:
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                return suites.find(self.suite).parser().parse_args(list(self.options))
        except SystemExit:
            fault = said.getvalue().strip().rsplit("error: ", 1)[-1]
            raise UserError(f"--suite {self.suite}: {fault} (options are those of `mmclr eval {self.suite}`)") from None
