"""InfoNCE between images and texts, the loss of CLIP."""

from functools import partial

from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses.algebra import Mask, Pairs, dual_lse, weighted
from mmclr.losses.negatives import Duplicates, not_negatives
from mmclr.losses.objective import Objective


class Clip(Objective, key="clip"):
    """Tell each image's caption from all captions of the batch, and each caption's image from all images.

    Radford et al., ICML 2021, arXiv 2103.00020; image_weight 0.75 is ConVIRT, Zhang et al., MLHC 2022, arXiv
    2010.00747. With s_ij = scale * <image_i, text_j>:
    L = mean_i [ w * softplus(log sum_{j != i} exp s_ij - s_ii) + (1-w) * softplus(log sum_{j != i} exp s_ji - s_ii) ]
    Reduces to: cross-entropy of the softmax over all captions and all images (the same value, without cancellation).
    Differs from the paper: pairs with equal images or equal captions are not negatives of each other.
    """

    image_weight: float = 0.5  # w, weight of the image-to-text direction, 0 to 1
    label_smoothing: float = 0.0  # share of the target that goes evenly to all that are told apart, 0 to 1
    duplicates: Duplicates = "mask"  # what equal captions or equal images are to each other
    keep_mib: int = 16  # memory for tiles that the backward need not make again, MiB

    def __post_init__(self) -> None:
        for name in ("image_weight", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, 0 to 1, not {getattr(self, name)}")

    def forward(
        self, image: Tensor, text: Tensor, scale: Tensor, image_id: Tensor, caption_id: Tensor, weights: Tensor
    ) -> Tensor:
        same = not_negatives(self.duplicates, image_id, caption_id)
        return self._contrast(image, text, scale, same, weights, self.label_smoothing)

    def _contrast(
        self, image: Tensor, text: Tensor, scale: Tensor, same: Mask, weights: Tensor, smoothing: float
    ) -> Tensor:
        lse = dual_lse(image, text, scale, exclude=same, keep_bytes=self.keep_mib << 20)
        of_image, of_text = -F.logsigmoid(lse.pair - lse.row), -F.logsigmoid(lse.pair - lse.col)
        if smoothing:
            of_row, of_col = self._mean_similarities(image, text, scale, same)
            of_image = of_image + smoothing * (lse.pair - of_row)
            of_text = of_text + smoothing * (lse.pair - of_col)
        return parallel.mean(of_text.lerp(of_image, self.image_weight), weights)

    def _mean_similarities(self, image: Tensor, text: Tensor, scale: Tensor, same: Mask) -> tuple[Tensor, Tensor]:
        """Return the mean of s over what each image, and each caption, is told apart from, the pair included."""
        if isinstance(same, Pairs):
            return scale * (image @ parallel.mean(text)), scale * (text @ parallel.mean(image))
        sums = weighted(image, text, partial(_with_pairs, same, image), scale)
        return sums.row / sums.row_total, sums.col / sums.col_total


def _with_pairs(same: Mask, like: Tensor, rows: slice, cols: slice) -> Tensor:
    """Return 1 for negatives and for the pair itself, 0 for other pairs: [h, w]."""
    keep = same.keep(rows, cols, like.new_empty(rows.stop - rows.start, cols.stop - cols.start))
    Pairs().drop(keep, rows, cols, keep, value=1.0)
    return keep
