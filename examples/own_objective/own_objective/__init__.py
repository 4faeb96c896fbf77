"""What mmclr imports of this package: whatever registers an objective, a head or a provider by its key."""

from own_objective.huber import HuberAlignment

__all__ = ["HuberAlignment"]
