"""The terms that close the gap between the two modalities: uniformity within and across, and alignment."""

from torch import Tensor

from mmclr import parallel
from mmclr.losses.moments import log_mean_kernel
from mmclr.losses.objective import Objective


class Uniformity(Objective, key="uniformity"):
    """Spread the images over the sphere, and the captions over theirs.

    Fahim et al., It's Not a Modality Gap, 2024, arXiv 2405.18570; Wang and Isola, ICML 2020, arXiv 2005.10242.
    L = w * U(image) + (1-w) * U(text), U(x) = log mean_{j != k} exp(-t |x_j - x_k|^2), over the global batch.
    Reduces to: -2t(1 - cos) for two samples at that angle; 0, its maximum, when all are equal.
    Differs from the paper: it prints sums over N, its code takes the mean over pairs, as here.
    """

    t: float = 2.0  # inverse squared width of the kernel, > 0
    image_weight: float = 0.5  # w, weight of the images' term, 0 to 1

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        of_image, of_text = (log_mean_kernel(x, x, self.t) for x in (image, text))
        return self.image_weight * of_image + (1 - self.image_weight) * of_text


class CrossUniformity(Objective, key="cross_uniformity"):
    """Spread images away from the captions of other images.

    Fahim et al., It's Not a Modality Gap, 2024, arXiv 2405.18570.
    L = log mean_{j != k} exp(-t |image_j - text_k|^2), over the global batch; a pair itself is left out.
    Reduces to: uniformity, where each image equals its caption.
    Differs from the paper: it prints sums over N, its code takes the mean over pairs, as here.
    """

    t: float = 2.0  # inverse squared width of the kernel, > 0

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return log_mean_kernel(image, text, self.t)


class Alignment(Objective, key="alignment"):
    """Draw each image to its caption, whatever the others do; collapses without a term that spreads.

    Fahim et al., It's Not a Modality Gap, 2024, arXiv 2405.18570; Wang and Isola, ICML 2020, arXiv 2005.10242.
    L = mean_i |image_i - text_i|^power.
    Reduces to: mean_i (2 - 2 cos_i) for power 2.
    Differs from the paper: nothing.
    """

    power: float = 2.0  # of the distance, >= 2 (below, the gradient is infinite at 0)

    def __post_init__(self) -> None:
        if self.power < 2:
            raise ValueError(f"power must be at least 2, not {self.power}")

    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        return parallel.mean((image - text).square().sum(1) ** (self.power / 2), weights)
