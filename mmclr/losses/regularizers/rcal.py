"""Fine-tuned features that stay near those from before."""

from torch import Tensor

from mmclr import parallel
from mmclr.losses.objective import Objective


class RCAL(Objective, key="rcal", cost="local", needs_teacher=True):
    """Hold each embedding near what a frozen model, the one that fine-tuning began with, makes of the sample.

    Zhang et al., When Noisy Labels Meet Long Tail Dilemmas: A Representation Calibration Method, ICCV 2023, arXiv
    2211.10955, their individual representation calibration; the formula is derived from their method's description.
    L = beta / 2 * mean_i [ |image_i - frozen_image_i|^2 + |text_i - frozen_text_i|^2 ], frozen ones constant.
    Wants teacher: RUN, the model that init.source names; `mmclr eval linear_probe --calibrate` is the other half.
    Reduces to: beta * mean_i [ 2 - cos(image_i, frozen_image_i) - cos(text_i, frozen_text_i) ] for unit vectors; 0,
    with a gradient of 0, at the start.
    Differs from the paper: both towers are held in place of one encoder; no mixup.
    """

    beta: float = 1.0  # strength, >= 0

    def forward(
        self, image: Tensor, text: Tensor, frozen_image: Tensor, frozen_text: Tensor, weights: Tensor
    ) -> Tensor:
        moved = (image - frozen_image.detach()).square().sum(1) + (text - frozen_text.detach()).square().sum(1)
        return self.beta / 2 * parallel.mean(moved, weights)
