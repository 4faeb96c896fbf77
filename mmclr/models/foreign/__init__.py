"""Towers of other libraries in place of ours."""

from mmclr.moved import forward

__getattr__ = forward(__name__)
