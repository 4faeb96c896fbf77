"""AdamW with parameter groups, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import nn

from mmclr.config import config

Share = Annotated[float, Ge(0), Le(1)]


@config
class OptimConfig:
    """AdamW (Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101) and its schedule."""

    lr: Annotated[float, Gt(0)] = 5e-4  # peak
    betas: tuple[Share, Share] = (0.9, 0.98)
    eps: Annotated[float, Gt(0)] = 1e-6
    weight_decay: Annotated[float, Ge(0)] = 0.2  # not on norms, biases, embeddings of positions, scale
    clip_norm: Annotated[float, Gt(0)] | None = 1.0  # of the whole gradient; null: no clipping
    warmup: Annotated[float, Ge(0)] = 0.05  # steps if above 1, else share of all steps
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final: Share = 0.0  # lr at the end, as a share of the peak


def learning_rate(c: OptimConfig, step: int, steps: int) -> float:
    """Return the rate for the step numbered from 0: a linear warm-up, then the schedule down to final * lr."""
    warmup = c.warmup if c.warmup > 1 else c.warmup * steps
    if step < warmup:
        return c.lr * (step + 1) / math.ceil(warmup)
    done = (step - warmup) / max(1.0, steps - warmup)
    shape = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[c.schedule]
    return c.lr * (c.final + (1 - c.final) * shape)


def build(c: OptimConfig, module: nn.Module) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters of `module`; vectors and scalars do not decay."""
    trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    decay = [p for name, p in trainable if p.ndim > 1 and "position_embedding" not in name]
    rest = [p for name, p in trainable if p.ndim < 2 or "position_embedding" in name]
    groups = [{"params": decay, "weight_decay": c.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=c.lr, betas=c.betas, eps=c.eps, fused=True)
