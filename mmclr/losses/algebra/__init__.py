"""The streamed engine: differentiable sums over all pairs of a global batch whose [B, B] matrix never exists."""

from mmclr.losses.algebra.expected import Expected, expected
from mmclr.losses.algebra.joint import Joint, JointSum, joint_lse, joint_sum
from mmclr.losses.algebra.lse import Lse, dual_lse, merge
from mmclr.losses.algebra.masks import Either, Equal, Mask, Pairs, Where, groups
from mmclr.losses.algebra.pair_sum import PairSum, pair_sum
from mmclr.losses.algebra.token_entropy import token_entropy
from mmclr.losses.algebra.top import Top, chosen, top
from mmclr.losses.algebra.weighted import TileWeight, Weighted, low_rank, weighted

__all__ = [
    "Either",
    "Equal",
    "Expected",
    "Joint",
    "JointSum",
    "Lse",
    "Mask",
    "PairSum",
    "Pairs",
    "TileWeight",
    "Top",
    "Weighted",
    "Where",
    "chosen",
    "dual_lse",
    "expected",
    "groups",
    "joint_lse",
    "joint_sum",
    "low_rank",
    "merge",
    "pair_sum",
    "token_entropy",
    "top",
    "weighted",
]
