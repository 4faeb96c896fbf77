"""Keep a term to some of the samples."""

from __future__ import annotations

import operator
import re

import torch
from torch import Tensor

from mmclr import vocabulary
from mmclr.config import nearest
from mmclr.reweighters.reweighter import Reweighter

COMPARE = {"<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne, "<": operator.lt,
           ">": operator.gt}  # fmt: skip
FORM = re.compile(rf"\s*(\w+)\s*({'|'.join(COMPARE)})\s*(\S+)\s*")


class Where(Reweighter, key="where"):
    """Count those samples alone that fulfil a condition: `keep: label >= 0`.

    Cappellazzo et al., Continual Contrastive Spoken Language Understanding, 2023, arXiv 2310.02699, keep a contrast of
    modalities to new samples so, `keep: replayed == false`; the rest of that paper is the objective coconut.
    w_i = 1 where the condition holds, else 0; L = any objective with these weights.
    Reduces to: the term without it, where all samples fulfil it.
    Differs from the paper: the others are still what the kept ones are told apart from.
    """

    example = {"keep": "label >= 0"}
    keep: str  # FEATURE COMPARISON NUMBER, such as "label >= 0"; a missing number (NaN) fulfils none

    def __post_init__(self) -> None:
        self._parsed()

    def _parsed(self) -> tuple[str, str, float]:
        """Return the feature, the comparison and the number. Raises ValueError."""
        found = FORM.fullmatch(self.keep)
        if found is None:
            raise ValueError(f"write a feature, one of {' '.join(COMPARE)}, and a number, not {self.keep!r}")
        name, sign, text = found.groups()
        if name not in vocabulary.FEATURES:
            raise ValueError(f"there is no feature {name!r}{nearest(name, vocabulary.FEATURES)}")
        if vocabulary.FEATURES[name].shape != "[b]":
            shape = vocabulary.FEATURES[name].shape
            raise ValueError(f"{name} is {shape}; a condition takes a feature with one number per sample, [b]")
        words = {"true": "1", "false": "0"}
        try:
            return name, sign, float(words.get(text.lower(), text))
        except ValueError:
            raise ValueError(f"{text!r} is no number; write one, or true or false") from None

    @property
    def needs(self) -> tuple[str, ...]:
        """The feature that is compared."""
        return (self._parsed()[0],)

    def forward(self, **features: Tensor) -> Tensor:
        name, sign, number = self._parsed()
        x = features[name]
        return torch.where(COMPARE[sign](x, number) & (x == x), 1.0, 0.0)
