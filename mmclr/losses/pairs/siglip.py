"""Every pair is a yes-or-no question: the sigmoid loss."""

from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses.algebra import pair_sum
from mmclr.losses.negatives import Duplicates, not_negatives
from mmclr.losses.objective import Objective


class SigLIP(Objective, key="siglip"):
    """Ask of every image and every caption whether they belong together, each pair on its own.

    Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023, arXiv 2303.15343.
    L = mean_i [ softplus(-l_ii) + sum_{j != i} softplus(l_ij) ] with l_ij = scale * <image_i, text_j> + bias.
    Start with scale 10 and bias -10 (model.scale, model.bias), so that B negatives do not drown one positive.
    Reduces to: binary cross-entropy over the B x B matrix, divided by B.
    Differs from the paper: pairs with equal images or equal captions are left out unless they are the pair itself;
    a negative pair counts the mean of its two samples' weights.
    """

    duplicates: Duplicates = "mask"  # what equal captions or equal images are to each other

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        bias: Tensor,
        image_id: Tensor,
        caption_id: Tensor,
        weights: Tensor,
    ) -> Tensor:
        same = not_negatives(self.duplicates, image_id, caption_id)
        share = parallel.shares(weights.to(image.dtype)) / 2
        negatives, logit = pair_sum(image, text, scale, bias, exclude=same, weights=(share, share))
        return negatives - parallel.mean(F.logsigmoid(logit), weights)
