"""Objectives: one file per paper in the rooms, all of them a few lines over `algebra.py`."""

from mmclr.losses.objective import Objective, build, catalogue

__all__ = ["Objective", "build", "catalogue"]
