"""Copies of images with more or less detail, made on the device where the images are: Gaussian blur, and sharpening.

The positives and hard negatives of Wu, Jiang and Liu, A Practical Contrastive Learning Framework for Single-Image
Super-Resolution, TNNLS 2023, arXiv 2111.13924. Each draw is a function of the batch's number for the sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr import sample_random
from mmclr.config import config

AT = 224  # size of an image at which widths are given
SMOOTH = ((1, 1, 1), (1, 5, 1), (1, 1, 1))  # thirteenths


@config
class Degrade:
    """Number of copies of each image, and the way they are made."""

    blur: int = 0  # blurred copies
    sharpen: int = 0  # sharpened copies
    sigma: tuple[float, float] = (1.0, 4.0)  # width of the blur, in pixels at an image size of 224
    strength: tuple[float, float] = (1.0, 3.0)  # of the sharpening; 1 leaves the image, below 1 smooths it

    def __post_init__(self) -> None:
        for name in ("blur", "sharpen"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        for name in ("sigma", "strength"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"{name} is a range of numbers from 0 on, the lower first, not {[low, high]}")


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur images [n, C, H, W] of floats with a Gaussian of width sigma [n] in pixels; 0 leaves an image.

    Of the Gaussian what lies beyond the border counts nothing, and the rest is scaled to add up to 1: a constant image
    stays constant. It is exact, not cut off: a product with a matrix on either side.
    """
    with torch.autocast(x.device.type, enabled=False):
        rows, columns = (_gaussian(size, sigma, x.device) for size in x.shape[2:])
        return rows[:, None] @ x.float() @ columns[:, None].mT


def sharpen(x: Tensor, strength: Tensor) -> Tensor:
    """Return s x + (1 - s) smooth(x) for images [n, C, H, W] of floats and s [n], clamped to 0 to 1.

    The range is wider for an image whose own is. smooth is the mean of a pixel and its eight neighbours in which it
    counts five times; the border stays as it is.
    """
    low, high = (values[:, None, None, None] for values in torch.aminmax(x.flatten(1), dim=1))
    low, high = low.clamp(max=0), high.clamp(min=1)
    smooth = x.clone()
    with torch.autocast(x.device.type, enabled=False):
        kernel = x.new_tensor(SMOOTH).div(13).expand(x.shape[1], 1, 3, 3)
        smooth[..., 1:-1, 1:-1] = F.conv2d(x, kernel, groups=x.shape[1])
    s = strength.to(x.dtype)[:, None, None, None]
    return torch.clamp(s * x + (1 - s) * smooth, low, high)


@dataclass(frozen=True)
class Blurred:
    """Makes `count` copies of each image, blurred by a Gaussian of a width in the range `sigma`."""

    count: int
    sigma: tuple[float, float]
    says: ClassVar[str] = "blur"

    def pixels(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """Pixels [b, C, H, W] -> [b, count, C, H, W], float32."""
        width = self.said(draws) * (min(pixels.shape[2:]) / AT)
        copies = _floats(pixels).repeat_interleave(self.count, 0)
        return gaussian_blur(copies, width.flatten()).unflatten(0, (len(pixels), self.count))

    def said(self, draws: Tensor) -> Tensor:
        """Return the width of each copy's blur in pixels at an image size of 224, float32 [b, count]."""
        return _drawn(draws, 1, self.count, self.sigma)


@dataclass(frozen=True)
class Sharpened:
    """Makes `count` copies of each image, sharpened by a strength in the range `strength`."""

    count: int
    strength: tuple[float, float]
    says: ClassVar[str] = ""

    def pixels(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """Pixels [b, C, H, W] -> [b, count, C, H, W], float32."""
        copies = _floats(pixels).repeat_interleave(self.count, 0)
        return sharpen(copies, self.said(draws).flatten()).unflatten(0, (len(pixels), self.count))

    def said(self, draws: Tensor) -> Tensor:
        """Return the strength of each copy, float32 [b, count]."""
        return _drawn(draws, 2, self.count, self.strength)


def _floats(pixels: Tensor) -> Tensor:
    """Return pixels as floats of which 1 is full intensity, as models take them."""
    return pixels if pixels.is_floating_point() else pixels.float() / 255


def _drawn(draws: Tensor, salt: int, count: int, span: tuple[float, float]) -> Tensor:
    """Draw `count` numbers of a range for each sample: int64 [b] -> float32 [b, count]."""
    share = sample_random.uniform(draws, draws.new_tensor(salt), count)
    return (span[0] + (span[1] - span[0]) * share).float()


def _gaussian(size: int, sigma: Tensor, device: torch.device) -> Tensor:
    """Return matrices [n, size, size] that blur along one side; a width of 0 is the identity."""
    places = torch.arange(size, device=device, dtype=torch.float32)
    apart = (places[:, None] - places) ** 2
    width = sigma.float().clamp(min=1e-3)[:, None, None]  # at which the neighbour counts exp(-500000) = 0
    return torch.softmax(-apart / (2 * width**2), -1)
