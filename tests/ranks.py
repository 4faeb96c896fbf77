"""Really several processes, for tests of data parallelism: the pool that the laws use."""

from mmclr.laws.ranks import run

__all__ = ["run"]
