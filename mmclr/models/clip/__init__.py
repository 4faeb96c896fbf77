"""Our own towers: CLIP's architecture, batched and packed."""

from mmclr.moved import forward

__getattr__ = forward(__name__)
