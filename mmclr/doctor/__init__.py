"""Check a machine, and a run before it starts."""

from mmclr.moved import forward

__getattr__ = forward(__name__)
