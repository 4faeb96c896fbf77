"""The form of a law: a function of an objective in a setting, which raises Broken with what it saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmclr.laws.case import Case


class Broken(AssertionError):
    """An objective does not keep a law; the text is a sentence about what was seen."""


@dataclass(frozen=True)
class Law:
    """One law. `check(case)`, or `check(case, world)` where it takes several processes, raises Broken."""

    name: str
    says: str  # what holds, in a sentence
    check: Callable[..., None]
    applies: Callable[[Case], bool]  # whether it has anything to say of this case
    once: bool  # it is about the class, not about a setting
    worlds: tuple[int, ...]  # the numbers of processes that it takes; () for this one


def law(
    applies: Callable[[Case], bool] = lambda case: True, once: bool = False, worlds: tuple[int, ...] = ()
) -> Callable[[Callable[..., None]], Law]:
    """Make a law of a function whose docstring's first line says what holds."""

    def of(check: Callable[..., None]) -> Law:
        says = (check.__doc__ or "").strip().partition("\n")[0]
        return Law(check.__name__, says, check, applies, once, worlds)

    return of


def demand(holds: object, text: str) -> None:
    """Raise Broken with the text unless the condition holds."""
    if not holds:
        raise Broken(text)
