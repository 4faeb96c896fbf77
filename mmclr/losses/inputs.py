"""Other features in place of those that an objective names: `clip: {inputs: {text: views.0}}` in a config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from mmclr import vocabulary
from mmclr.config import ConfigError, nearest
from mmclr.errors import UserError

SEVERAL = ("M", "V", "X", "Q", "T")  # letters of how many a sample has of something


class Input(NamedTuple):
    """A stand-in for a feature: another one, or one of several that a sample has of it."""

    feature: str
    at: int | None = None  # counted from 0

    def __str__(self) -> str:
        return self.feature if self.at is None else f"{self.feature}.{self.at}"

    @property
    def shape(self) -> list[str]:
        """Letters of the legend; a number of views, captions or forms is a * that fits any other."""
        letters = ["*" if letter in SEVERAL else letter for letter in _letters(self.feature)]
        return letters if self.at is None else letters[:1] + letters[2:]

    def of(self, features: Mapping[str, Tensor], where: str) -> Tensor:
        """Return the value. Raises UserError where a sample has fewer."""
        x = features[self.feature]
        if self.at is None:
            return x
        if self.at >= x.shape[1]:
            raise UserError(
                f"{where}: there is no {self}; a sample has {x.shape[1]} {self.feature}, counted from 0: take another, "
                f"or let the data give more"
            )
        return x[:, self.at]


def parse(needs: Iterable[str], chosen: Mapping[str, str], where: str = "inputs") -> dict[str, Input]:
    """Return what is given for each need of an objective: itself, unless `chosen` says another feature.

    Raises ConfigError where that is no feature, or one of another shape or type.
    """
    found, faults = {need: Input(need) for need in needs}, []
    for need, text in chosen.items():
        try:
            if need not in found:
                raise ConfigError(f"{where}: the objective asks for no {need!r}{nearest(need, found)}")
            found[need] = _read(text, f"{where}.{need}")
            _compare(need, found[need], f"{where}.{need}")
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        raise ConfigError("\n".join(faults))
    return found


def _read(text: str, where: str) -> Input:
    name, dot, number = text.partition(".")
    if name not in vocabulary.FEATURES:
        raise ConfigError(f"{where}: there is no feature {name!r}{nearest(name, vocabulary.FEATURES)}")
    if not dot:
        return Input(name)
    if not number.isdecimal():
        raise ConfigError(f"{where}: {text!r} is no feature and no number of one; write {name}, or {name}.0")
    if _letters(name)[1:2] not in [[letter] for letter in SEVERAL]:
        raise ConfigError(f"{where}: a sample has one {name} and not several; write {name}")
    return Input(name, int(number))


def _compare(need: str, given: Input, where: str) -> None:
    """Raise ConfigError unless the input is of the shape and the type that is asked for."""
    asked, row = Input(need), vocabulary.FEATURES[given.feature]
    if vocabulary.is_float(need) != vocabulary.is_float(given.feature):
        raise ConfigError(f"{where}: {given} is {row.meaning}, which cannot stand for {need}")
    if given.shape != asked.shape or row.dense != vocabulary.FEATURES[need].dense:
        one = Input(given.feature, 0)
        hint = f"; one of them is {one}" if _letters(given.feature)[1:2] != ["D"] and one.shape == asked.shape else ""
        raise ConfigError(
            f"{where}: {given} is [{', '.join(given.shape)}] and {need} is [{', '.join(asked.shape)}], in the letters "
            f"of mmclr/vocabulary.py{hint}"
        )


def _letters(feature: str) -> list[str]:
    return vocabulary.FEATURES[feature].shape.strip("[]").split(", ")
