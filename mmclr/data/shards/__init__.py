"""Bytes of shards: addresses, stores, tar, indices."""

from mmclr.moved import forward

__getattr__ = forward(__name__)
