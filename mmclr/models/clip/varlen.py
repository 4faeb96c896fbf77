"""Causal attention over sequences of different lengths in one kernel, where CUDA has it: torch's varlen_attn.

Attention by groups of equal length launches a kernel per length and layer, which a CPU does not feel and a GPU does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

LENGTHS = (1, 2, 7, 33)  # of the sequences that the kernel is tried on


@lru_cache
def kernel() -> Callable[..., Any] | None:
    """Return torch's function, None before torch 2.10. Its import takes the compiler along, so a CPU has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def usable(q: Tensor, heads: int) -> bool:
    """Say whether queries [N, width] of so many heads can go through the kernel, and whether it is right there."""
    width = q.shape[-1] // heads
    if not q.is_cuda or q.dtype not in (torch.float16, torch.bfloat16) or kernel() is None:
        return False
    # rows of other widths are not aligned to 16 bytes, and the kernel would read beside them without a word
    if width % 8 or width > 256 or torch.cuda.get_device_capability(q.device) < (8, 0):
        return False
    return agrees(q.device, q.dtype, width)


def attend(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int) -> Tensor:
    """Causal within each sequence, [N, heads, d] each -> [N, heads, d]; sequences begin at offsets, int32 [n + 1]."""
    varlen_attn = kernel()
    assert varlen_attn is not None
    return varlen_attn(q, k, v, offsets, offsets, longest, longest, window_size=(-1, 0))


@lru_cache
def agrees(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Try the kernel once in a process, for heads of this width: its values and gradients against plain attention.

    Kernels for lengths that vary have been wrong before on some cards; then texts go by length, and it is said.
    """
    try:
        ours, plain = _values_and_gradients(device, dtype, width)
        error = max(float((a - b).norm() / b.norm()) for a, b in zip(ours, plain))
        cause = f"its values or gradients are wrong by {error:.0e}"
    except (RuntimeError, TypeError, ValueError) as failure:  # TypeError: another torch's arguments
        error, cause = float("inf"), f"it failed ({str(failure).splitlines()[0]})"
    right = error < 8 * torch.finfo(dtype).eps  # a NaN is not
    if not right:
        warnings.warn(
            f"torch's attention for varying lengths is not used on {device}: {cause}; texts are grouped by length, "
            "which is right too, but slower",
            stacklevel=2,
        )
    return right


def _values_and_gradients(device: torch.device, dtype: torch.dtype, width: int) -> tuple[list[Tensor], list[Tensor]]:
    """The outcome of a small example, by the kernel and written out, in float32."""
    outcomes: list[list[Tensor]] = []
    own = torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x)  # a recomputed block counts what it saves
    with own, torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        numbers = torch.arange(4 * sum(LENGTHS) * 2 * width, dtype=torch.float64, device=device)
        drawn = (numbers * 0.7).sin().unflatten(0, (4, -1, 2, width)).to(dtype)  # draws no random number
        ends = torch.tensor((0, *LENGTHS), device=device).cumsum(0).to(torch.int32)
        for exact in (False, True):
            q, k, v = (x.float() if exact else x.clone() for x in drawn[:3])
            for x in (q, k, v):
                x.requires_grad_()
            out = _written_out(q, k, v) if exact else attend(q, k, v, ends, max(LENGTHS))
            gradients = torch.autograd.grad(out, (q, k, v), drawn[3].to(out.dtype))
            outcomes.append([x.detach().float() for x in (out, *gradients)])
    return outcomes[0], outcomes[1]


def _written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    parts = zip(*(x.transpose(0, 1).split(LENGTHS, 1) for x in (q, k, v)))
    return torch.cat([F.scaled_dot_product_attention(a, b, c, is_causal=True) for a, b, c in parts], 1).transpose(0, 1)
