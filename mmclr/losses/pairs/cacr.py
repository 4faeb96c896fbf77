"""Attraction among positives and repulsion among negatives, each weighted within its own kind."""

from torch import Tensor

from mmclr import parallel
from mmclr.losses.algebra import expected
from mmclr.losses.negatives import Duplicates, not_negatives
from mmclr.losses.objective import Objective


class CACR(Objective, key="cacr"):
    """Pull the farther positives more, push the closer negatives more, and never compare the two kinds.

    Zheng et al., Contrastive Attraction and Contrastive Repulsion, TMLR 2023, arXiv 2105.03746. c(x, y) = |x - y|^2:
    L = mean_i [ alpha * sum_m p_im c(u_i, v_im) - beta * sum_{j != i} q_ij c(u_i, v_j) ], p_i = softmax_m(t_pull * c),
    q_i = softmax_{j != i}(-t_push * c), averaged with the same anchored in captions (whose only positive is the image).
    Reduces to: dcl at temperature 1 / (2 t_push), times that, in its gradient, with one caption and detached weights.
    Differs from the paper: captions of an image instead of views; the first caption is the negative of other images;
    weights are constants by default, as in its large-scale code, whose rbf cost (a weighted InfoNCE) is left out.
    """

    alpha: float = 1.0  # weight of the attraction, >= 0
    beta: float = 1.0  # weight of the repulsion, >= 0
    t_pull: float = 1.0  # how much the farther captions of an image pull more, >= 0
    t_push: float = 2.0  # how much the closer negatives push more, >= 0
    detach_weights: bool = True  # p and q are constants; false: gradients flow through them
    duplicates: Duplicates = "mask"  # what equal captions or equal images are to each other

    def forward(self, image: Tensor, texts: Tensor, image_id: Tensor, caption_id: Tensor, weights: Tensor) -> Tensor:
        text = texts[:, 0]
        same = not_negatives(self.duplicates, image_id, caption_id)
        near = expected(image, text, 2 * self.t_push, exclude=same, detach=self.detach_weights)
        pull = self._attraction(image, texts) + _cost((image * text).sum(1))
        push = _cost(near.row) + _cost(near.col)
        return parallel.mean(self.alpha * pull - self.beta * push, weights) / 2

    def _attraction(self, image: Tensor, texts: Tensor) -> Tensor:
        cost = _cost((image[:, None] * texts).sum(2))
        share = (self.t_pull * cost).softmax(1)
        return ((share.detach() if self.detach_weights else share) * cost).sum(1)


def _cost(cosine: Tensor) -> Tensor:
    """Return the squared distance of unit vectors."""
    return 2 - 2 * cosine
