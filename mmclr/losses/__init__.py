"""Objectives: one file per paper in the rooms, all of them a few lines over `algebra`."""

from mmclr.losses.objective import Facts, Objective, build, catalogue
from mmclr.losses.ramp import Ramp, Weight

__all__ = ["Facts", "Objective", "Ramp", "Weight", "build", "catalogue"]
