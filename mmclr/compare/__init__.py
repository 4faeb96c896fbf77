"""Several configs on one budget, several seeds, and which is better."""

from mmclr.moved import forward

__getattr__ = forward(__name__)
