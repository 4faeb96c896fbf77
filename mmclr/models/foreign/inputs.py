"""Padding and dropped patches, with which every tower must deal or say that it cannot."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr.errors import UserError


def valid(lengths: Tensor, width: int) -> Tensor:
    """Return [n, width], true at the first lengths [n] places of each row."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def fill(tokens: Tensor, lengths: Tensor, context: int, pad: int) -> Tensor:
    """Return ids [n, context] with `pad` behind each row's end."""
    tokens = F.pad(tokens, (0, context - tokens.shape[1]))
    return tokens.masked_fill(~valid(lengths, context), pad)


def refuse_dropped_patches(keep: Tensor | None) -> None:
    """Raise where patches are to be dropped before a tower that takes whole images."""
    if keep is not None:
        raise UserError("patch_dropout works with our own image towers only; set patch_dropout: 0")
