"""The processes and threads of a run."""

from mmclr.moved import forward

__getattr__ = forward(__name__)
