"""The catalogue of objectives, and PAPERS.md."""

from mmclr.moved import forward

__getattr__ = forward(__name__)
