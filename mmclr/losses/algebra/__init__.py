"""The streamed engine: differentiable sums over all pairs of a global batch whose [B, B] matrix never exists."""

from mmclr.losses.algebra.lse import Lse, dual_lse
from mmclr.losses.algebra.masks import Either, Equal, Mask, Pairs, Where
from mmclr.losses.algebra.pair_sum import PairSum, pair_sum

__all__ = ["Either", "Equal", "Lse", "Mask", "PairSum", "Pairs", "Where", "dual_lse", "pair_sum"]
