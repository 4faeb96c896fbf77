"""The whole way once, on real icons."""

from mmclr.moved import forward

__getattr__ = forward(__name__)
