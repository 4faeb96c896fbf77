"""The laws that every objective keeps, whatever its paper: `mmclr check FILE` runs them, and so do the tests."""

from mmclr.laws.case import Case
from mmclr.laws.law import Broken, Law
from mmclr.laws.statute import LAWS

__all__ = ["LAWS", "Broken", "Case", "Law"]
