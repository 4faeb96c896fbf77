"""The optimizer with its parameter groups, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from mmclr.config import config
from mmclr.train.muon import Muon

Share = Annotated[float, Ge(0), Le(1)]


@config
class OptimConfig:
    """AdamW (Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101) or Muon, and the schedule of the rate."""

    kind: Literal["adamw", "muon"] = "adamw"  # muon: the towers' matrices step by Muon, the rest by AdamW
    matrix_lr: Annotated[float, Gt(0)] = 1.0  # muon: the rate of those matrices, as a multiple of lr
    momentum: Share = 0.95  # muon
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
    """Return the optimizer of the trainable parameters of `module`; vectors, scalars and positions do not decay."""
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    kinds = {name: _kind(c, name, p) for name, p in trainable.items()}
    settings: dict[str, dict[str, Any]] = {
        "matrix": {"weight_decay": c.weight_decay, "orthogonal": True, "factor": c.matrix_lr, "momentum": c.momentum},
        "decay": {"weight_decay": c.weight_decay},
        "rest": {"weight_decay": 0.0},
    }
    groups = [
        {"params": [p for name, p in trainable.items() if kinds[name] == kind], "factor": 1.0, **setting}
        for kind, setting in settings.items()
    ]
    cls = Muon if c.kind == "muon" else torch.optim.AdamW
    return cls([g for g in groups if g["params"]], lr=c.lr, betas=c.betas, eps=c.eps, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups, each by its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def _kind(c: OptimConfig, name: str, p: Tensor) -> str:
    if p.ndim < 2 or "position_embedding" in name:
        return "rest"
    return "matrix" if c.kind == "muon" and ".layers." in name else "decay"
