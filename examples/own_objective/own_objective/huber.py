"""Pairs drawn together, those that are far apart no more than others."""

from torch import Tensor

from mmclr import parallel
from mmclr.losses.objective import Objective


class HuberAlignment(Objective, key="huber_alignment", cost="local"):
    """Draw the two embeddings of a pair together, with a pull that stops growing with their distance.

    Huber, Robust Estimation of a Location Parameter, 1964, no arXiv. With d_i = |image_i - text_i|:
    L = mean_i h(d_i), h(d) = d^2 / 2 for d <= delta, delta (d - delta / 2) beyond.
    Reduces to: half of alignment, for delta 2 (unit vectors are no farther apart).
    Differs from the paper: a distance of embeddings in place of a residual.
    """

    delta: float = 0.5  # distance from which the pull is constant, > 0

    def __post_init__(self) -> None:
        if self.delta <= 0:
            raise ValueError(f"delta is above 0, not {self.delta}")

    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        square = (image - text).square().sum(1)
        far = square.clamp_min(self.delta**2).sqrt()  # never 0, where a root has no gradient
        near = square.clamp_max(self.delta**2) / 2
        return parallel.mean(near + self.delta * (far - self.delta), weights)
