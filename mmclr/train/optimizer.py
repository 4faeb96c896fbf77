"""The optimizer with its parameter groups, and the learning rate as a function of the step."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from mmclr import parallel
from mmclr.config import ConfigError, config
from mmclr.errors import note
from mmclr.models.layer_depth import depths
from mmclr.models.tower import Tower, blocks_for, matrices, towers
from mmclr.train.checkpoints.renamed import by_todays_name
from mmclr.train.muon import Muon
from mmclr.train.strategies.scalars import plain_name

Share = Annotated[float, Ge(0), Le(1)]
Below = Annotated[float, Ge(0), Lt(1)]
KINDS = ("matrix", "decay", "rest")
STILL = ("position_embedding", "positional_embedding", "pos_embed", "cls_token")  # do not decay, whatever their shape


@config
class GroupConfig:
    """Settings of the weights whose names match a pattern."""

    lr: Annotated[float, Ge(0)] = 1.0  # a factor on their rate
    weight_decay: Annotated[float, Ge(0)] | None = None  # null: as they would have


@config
class OptimConfig:
    """AdamW (Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101) or Muon, and the schedule of the rate."""

    kind: Literal["adamw", "muon"] = "adamw"  # muon: the towers' matrices step by Muon, the rest by AdamW
    matrix_lr: Annotated[float, Gt(0)] = 1.0  # muon: the rate of those matrices, as a multiple of lr
    momentum: Share = 0.95  # muon
    lr: Annotated[float, Gt(0)] = 5e-4  # peak
    betas: tuple[Below, Below] = (0.9, 0.98)
    eps: Annotated[float, Gt(0)] = 1e-6
    weight_decay: Annotated[float, Ge(0)] = 0.2  # not on norms, biases, embeddings of positions, scale
    clip_norm: Annotated[float, Gt(0)] | None = 1.0  # of the whole gradient; null: no clipping
    warmup: Annotated[float, Ge(0)] = 0.05  # steps if above 1, else share of all steps
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final: Share = 0.0  # lr at the end, as a share of the peak
    layer_decay: Annotated[float, Gt(0), Le(1)] = 1.0  # a block's rate, as a share of that of the block above it
    groups: dict[str, GroupConfig] = dataclasses.field(default_factory=dict)  # by part of a name, * allowed; last wins


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
    named = {plain_name(name): p for name, p in module.named_parameters()}
    trainable = {name: p for name, p in named.items() if p.requires_grad}
    if not trainable:
        raise ConfigError("lock: nothing is left to learn, all weights are locked or asked for by no objective")
    factors, patterns = _layer_factors(c, module, list(named)), _by_pattern(c, trainable)
    inner = _matrices(module) if c.kind == "muon" else set()
    groups: dict[Any, dict[str, Any]] = {}
    for name, p in sorted(trainable.items(), key=lambda item: KINDS.index(_kind(item[0], item[1], inner))):
        kind = _kind(name, p, inner)
        factor = factors[name] * patterns[name].lr * (c.matrix_lr if kind == "matrix" else 1.0)
        own = patterns[name].weight_decay
        decay = own if own is not None else 0.0 if kind == "rest" else c.weight_decay
        muon = {"orthogonal": True, "momentum": c.momentum} if kind == "matrix" else {}
        fresh = {"params": [], "factor": factor, "weight_decay": decay, **muon}
        groups.setdefault((kind, factor, decay), fresh)["params"].append(p)
    cls = Muon if c.kind == "muon" else torch.optim.AdamW
    return cls(list(groups.values()), lr=c.lr, betas=c.betas, eps=c.eps, fused=True)


def _layer_factors(c: OptimConfig, module: nn.Module, names: list[str]) -> dict[str, float]:
    """Return each weight's layer_decay ** (blocks above it, the projection counted); 1 outside of the towers."""
    factors = dict.fromkeys(names, 1.0)
    for place, tower in module.named_modules():
        if isinstance(tower, Tower) and c.layer_decay != 1 and _learns(tower):
            blocks_for("optim.layer_decay", tower)
            depth = depths(tower)
            top = max(depth.values(), default=0)
            factors.update(
                {plain_name(f"{place}.{name}".lstrip(".")): c.layer_decay ** (top - d) for name, d in depth.items()}
            )
    return factors


def _matrices(module: nn.Module) -> set[int]:
    """Return the ids of the matrices in the blocks of all towers that learn."""
    found = [blocks_for("optim.kind: muon", tower) for tower in towers(module) if _learns(tower)]
    return {id(p) for blocks in found for p in matrices(blocks)}


def _learns(tower: Tower) -> bool:
    return any(p.requires_grad for p in tower.parameters())


def _by_pattern(c: OptimConfig, names: Iterable[str]) -> dict[str, GroupConfig]:
    """Return the group that each name falls into; the empty one where no pattern matches."""
    found = {name: GroupConfig() for name in names}
    today, used = by_todays_name(c.groups)
    if used and not parallel.rank():
        note(f"optim.groups: written with earlier names, read by today's ({'; '.join(used)})")
    for pattern, group in c.groups.items():
        matched = fnmatch.filter(found, f"*{today[pattern]}*")
        if not matched:
            raise ConfigError(f"optim.groups.{pattern}: no trained weight has such a name (one is {next(iter(found))})")
        found.update(dict.fromkeys(matched, group))
    return found


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups, each by its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def _kind(name: str, p: Tensor, inner: set[int]) -> str:
    if p.ndim < 2 or any(word in name for word in STILL):
        return "rest"
    return "matrix" if id(p) in inner else "decay"
