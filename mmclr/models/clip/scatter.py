"""Our tower for small image sets: a fixed wavelet scattering transform, and residual blocks that learn from it.

Kinakh et al., ScatSimCLR: self-supervised contrastive learning with pretext task regularization for small-scale
datasets, ICCV 2021 workshops, arXiv 2108.13939.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from mmclr.errors import UserError
from mmclr.models.clip.scattering import Scattering
from mmclr.models.config import ImageConfig
from mmclr.models.tower import Tower

POOLED = 4  # places a side of what the blocks give, whose channels side by side are the feature


class Residual(nn.Module):
    """Two convolutions of 3 x 3 with batch norms, and what they add to: He et al., CVPR 2016, arXiv 1512.03385."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps [b, inputs, H, W] -> [b, outputs, H, W]."""
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(inner)))


class ScatterTower(Tower):
    """The scattering transform of an image and what residual blocks make of it.

    Images are mirrored at their borders by 2^J pixels, as kymatio does, and the cells there left out again. The
    coefficients of all channels get a batch norm, a convolution of 3 x 3 to 2 width / 16 channels with batch norm and
    ReLU, `blocks` residual blocks of width / 16 channels, and the mean over each of 4 x 4 fields: `width` numbers.
    Differs from the paper: its code declares the batch norm of the coefficients and never applies it.
    """

    part = "image"

    def __init__(self, c: ImageConfig) -> None:
        super().__init__()
        s = c.scatter
        assert s is not None
        self.border = 2**s.J
        self.scattering = Scattering(c.size + 2 * self.border, s.J, s.L)
        channels, inner = c.channels * s.paths, c.width // POOLED**2
        self.norm = nn.BatchNorm2d(channels)
        self.stem = nn.Conv2d(channels, 2 * inner, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(2 * inner)
        self.layers: Sequence[Residual] = nn.ModuleList(  # type: ignore[assignment]
            Residual(inner if number else 2 * inner, inner) for number in range(s.blocks)
        )

    def blocks(self) -> Sequence[Residual]:
        """Return the residual blocks."""
        return self.layers

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Normalised pixels [b, C, H, W] -> the feature [b, width]. Raises UserError where patches are left out."""
        if keep is not None:
            raise UserError("patch_dropout: image.scatter has no patches that could be left out; set patch_dropout: 0")
        mirrored = F.pad(pixels, (self.border,) * 4, mode="reflect")
        x = self.norm(self.scattering(mirrored)[..., 1:-1, 1:-1].flatten(1, 2))
        x = F.relu(self.stem_norm(self.stem(x)))
        for block in self.layers:
            x = block(x)
        return F.adaptive_avg_pool2d(x, POOLED).flatten(1)


def initialise_scatter(tower: ScatterTower) -> None:
    """Draw the convolutions such that ReLUs keep the size of what passes: He et al., ICCV 2015, arXiv 1502.01852."""
    for module in tower.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
