"""InfoNCE against the hardest negatives only, and the contrast that treats all negatives alike."""

import math

from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses.algebra import Mask, top
from mmclr.losses.negatives import Duplicates, not_negatives
from mmclr.losses.objective import Objective


class HardInfoNCE(Objective, key="hard_infonce"):
    """Keep the positive and the k closest negatives of each anchor: hard at any temperature.

    Wang and Liu, Understanding the Behaviour of Contrastive Loss, CVPR 2021, arXiv 2012.09740. With s_ij = scale *
    <image_i, text_j> and N_i the k columns j != i with the largest s_ij:
    L = mean_i softplus(log sum_{j in N_i} exp s_ij - s_ii), averaged with the same over captions.
    Reduces to: clip, for k >= B - 1.
    Differs from the paper: both directions of the image-text matrix instead of a memory bank; equal images and
    equal captions are left out before the hardest are chosen; ties go to the lower index.
    """

    k: int = 0  # negatives per anchor; 0: the share alpha of them
    alpha: float = 0.0819  # share of the B - 1 negatives, rounded up, above 0 to 1; the paper's 4095 of 50,000
    duplicates: Duplicates = "mask"  # what equal captions or equal images are to each other

    def __post_init__(self) -> None:
        if self.k < 0 or not 0 < self.alpha <= 1:
            raise ValueError(f"k must be at least 0 and alpha in (0, 1], not {self.k} and {self.alpha}")

    def forward(
        self, image: Tensor, text: Tensor, scale: Tensor, image_id: Tensor, caption_id: Tensor, weights: Tensor
    ) -> Tensor:
        same = not_negatives(self.duplicates, image_id, caption_id)
        pair = scale * (image * text).sum(1)
        of_image, of_text = (
            -F.logsigmoid(pair - self._hardest(x, y, scale, same)) for x, y in ((image, text), (text, image))
        )
        return parallel.mean(of_image + of_text, weights) / 2

    def _hardest(self, x: Tensor, y: Tensor, scale: Tensor, same: Mask) -> Tensor:
        """Return the log-sum-exp of each row over its hardest negatives, [b]."""
        negatives = parallel.count(x) - 1
        k = self.k or math.ceil(self.alpha * negatives)
        return top(x, y, max(1, min(k, negatives)), scale, exclude=same).values.logsumexp(1)


class SimpleContrast(Objective, key="simple_contrast"):
    """Pull the positive and push all negatives with the same force, whatever their similarity.

    Wang and Liu, Understanding the Behaviour of Contrastive Loss, CVPR 2021, arXiv 2012.09740, their simple loss.
    With s_ij = scale * <image_i, text_j>:  L = mean_i [ -s_ii + push / (B-1) * sum_{j != i} s_ij ].
    Reduces to: clip for temperature to infinity, up to constants and with push 1 - 1/B.
    Differs from the paper: push is relative to the number of negatives (theirs, lambda, is not).
    """

    push: float = 1.0  # lambda * (B-1), weight of the mean negative, >= 0; small values collapse

    def forward(self, image: Tensor, text: Tensor, scale: Tensor, weights: Tensor) -> Tensor:
        samples = parallel.count(image)
        pair = (image * text).sum(1)
        negatives = ((image @ parallel.mean(text) + text @ parallel.mean(image)) / 2 * samples - pair) / max(
            1, samples - 1
        )
        return parallel.mean(scale * (self.push * negatives - pair), weights)
