"""Loss scaling for fp16, whose smallest gradients would round to zero.

Micikevicius et al., Mixed Precision Training, ICLR 2018, arXiv 1710.03740: the loss is multiplied by a power of two
and the gradient divided by it. An overflow halves the factor; after a while without one it is doubled.
"""

from __future__ import annotations

from dataclasses import dataclass

PATIENCE = 2000  # steps without an overflow after which the factor doubles


@dataclass
class LossScale:
    """The factor and how long it has held."""

    value: float = 2.0**16
    held: int = 0

    def lower(self) -> bool:
        """Take in an overflow; return False where the factor cannot be its cause any more."""
        if self.value <= 1:
            return False
        self.value, self.held = self.value / 2, 0
        return True

    def hold(self) -> None:
        """Take in a step without overflow."""
        self.held += 1
        if self.held >= PATIENCE:
            self.value, self.held = self.value * 2, 0
