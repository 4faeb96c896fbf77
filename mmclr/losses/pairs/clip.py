"""InfoNCE between images and texts, the loss of CLIP."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses.algebra import Either, Equal, Pairs, dual_lse
from mmclr.losses.objective import Objective


class Clip(Objective, key="clip"):
    """Tell each image's caption from all captions of the batch, and each caption's image from all images.

    Radford et al., ICML 2021, arXiv 2103.00020; image_weight 0.75 is ConVIRT, Zhang et al., MLHC 2022, arXiv
    2010.00747. With s_ij = scale * <image_i, text_j>:
    L = mean_i [ w * softplus(log sum_{j != i} exp s_ij - s_ii) + (1-w) * softplus(log sum_{j != i} exp s_ji - s_ii) ]
    Reduces to: cross-entropy of the softmax over all captions and all images (the same value, without cancellation).
    Differs from the paper: pairs with equal pictures or equal captions are not negatives of each other.
    """

    image_weight: float = 0.5  # w, weight of the image-to-text direction, 0 to 1
    duplicates: Literal["mask", "negative"] = "mask"  # what equal captions or equal pictures are to each other
    keep_mib: int = 16  # memory for tiles that the backward need not make again, MiB

    def __post_init__(self) -> None:
        if not 0 <= self.image_weight <= 1:
            raise ValueError(f"image_weight is a share, 0 to 1, not {self.image_weight}")

    def forward(
        self, image: Tensor, text: Tensor, scale: Tensor, image_id: Tensor, caption_id: Tensor, weights: Tensor
    ) -> Tensor:
        same = Either(Equal(image_id), Equal(caption_id)) if self.duplicates == "mask" else Pairs()
        lse = dual_lse(image, text, scale, exclude=same, keep_bytes=self.keep_mib << 20)
        of_image, of_text = -F.logsigmoid(lse.pair - lse.row), -F.logsigmoid(lse.pair - lse.col)
        return parallel.mean(of_text.lerp(of_image, self.image_weight), weights)
