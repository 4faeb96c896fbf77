"""Weights that were trained on images of one or three channels, for images of another number of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmclr.errors import UserError

FROM = (1, 3)  # channels whose meaning is known: grey and RGB


def refuse_unknown(there: int, here: int, called: str) -> None:
    """Raise UserError where weights for `there` channels cannot be taken over for `here` others."""
    if there not in FROM:
        raise UserError(
            f"{called}: trained on images of {there} channels, which nobody can know among {here} others; only weights "
            f"for 1 or 3 channels (grey, RGB) are taken over: set model.image.channels={there}"
        )


class Scale(NamedTuple):
    """The normalisation of pixels in [0, 1] before they meet the weights: (x - mean) / std, of each channel."""

    mean: Sequence[float]
    std: Sequence[float]


def rechannel(weight: Tensor, there: Scale, here: Scale) -> tuple[Tensor, Tensor]:
    """Return a patch embedding [width, C, p, p] for N channels, and what else it adds to every patch, [width].

    Each channel n gets the same filter, w'_n = s'_n / N * sum_c w_c / s_c, and the constant is sum over the places of
    a patch of sum_c w_c / s_c * (mean over n of m'_n - m_c), where (m, s) are the mean and std of the C channels that
    the weights were trained with and (m', s') those of the N channels. So an image whose N channels are all x has
    exactly the response that the grey image x, given as C equal channels, had: sum_c w_c (x - m_c) / s_c. For grey (N =
    1) with std 1 on both sides the filter is the sum over the three, for N their mean times 3 / N.
    Raises UserError where C is neither 1 nor 3.
    """
    refuse_unknown(weight.shape[1], len(here.std), "weights")
    exact = weight.double()
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in there)
    scaled = exact / std.view(1, -1, 1, 1)
    grey = scaled.sum(1)  # [width, p, p]: the response to one unit of grey
    n = len(here.std)
    filters = grey[:, None] * torch.tensor(here.std, dtype=torch.float64).view(1, -1, 1, 1) / n
    level = torch.tensor(here.mean, dtype=torch.float64).mean()
    constant = (scaled * (level - mean).view(1, -1, 1, 1)).sum((1, 2, 3))
    return filters.to(weight.dtype), constant.to(weight.dtype)


def input_convolution(tower: nn.Module, channels: int, called: str) -> tuple[str, nn.Conv2d]:
    """Return the one convolution of another library's tower that reads an image's channels, with its name.

    Raises UserError where there is none, or more than one.
    """
    found = [
        (name, module)
        for name, module in tower.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == channels and module.groups == 1
    ]
    if len(found) != 1:
        raise UserError(
            f"{called} has {len(found)} convolutions over {channels} channels, so it is not known which one reads the "
            f"image; only images of {channels} channels can go into it"
        )
    return found[0]


def rechannelled(
    state: dict[str, Tensor], tower: nn.Module, there: Scale, here: Scale, called: str
) -> dict[str, Tensor]:
    """Return a tower's weights for the channels of `here`; `tower` is the one that they were trained in.

    The convolution needs a bias, which takes the constant, and no padding, which would not be grey. Raises UserError.
    """
    name, convolution = input_convolution(tower, len(there.std), called)
    if convolution.bias is None or convolution.padding not in (0, (0, 0), "valid"):
        lacks = "no bias" if convolution.bias is None else "padding around the image"
        raise UserError(
            f"{called}: its first convolution has {lacks}, so its weights for {len(there.std)} channels have no exact "
            f"counterpart for {len(here.std)}; set model.image.foreign.trained: false to start it anew"
        )
    weight, constant = rechannel(state[f"{name}.weight"], there, here)
    return {**state, f"{name}.weight": weight, f"{name}.bias": state[f"{name}.bias"] + constant}
