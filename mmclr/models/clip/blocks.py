"""The transformer of CLIP, with transformers' parameter names, in two layouts: batched and packed.

Only what the caller will read is computed: the last block can be asked for one pooled token per sequence, and a
packed text holds no padding at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mmclr.models.clip import varlen


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), the activation of the released CLIP weights."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": quick_gelu}


@dataclass(frozen=True)
class Packed:
    """The layout of n sequences of different lengths in one tensor [N, width] of their valid tokens.

    Sequences are ordered by length, so those of equal length are a view [count, length, width]: attention
    needs neither padding nor a mask beyond causality.
    """

    groups: tuple[tuple[int, int], ...]  # (count, length), lengths rising
    last: Tensor  # [n] the row of each sequence's last token, in packed order
    order: Tensor  # [n] the original number of each packed sequence

    @classmethod
    def pack(cls, tokens: Tensor, lengths: Tensor) -> tuple[Packed, Tensor, Tensor]:
        """Return the layout of tokens [n, L] with lengths [n], the valid ids [N] and their positions [N]."""
        lengths, order = torch.sort(lengths, stable=True)
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        valid = positions < lengths[:, None]
        sizes, counts = torch.unique_consecutive(lengths.cpu(), return_counts=True)
        groups = tuple(zip(counts.tolist(), sizes.tolist()))
        return cls(groups, lengths.cumsum(0) - 1, order), tokens[order][valid], positions[valid]

    @cached_property
    def offsets(self) -> Tensor:
        """Begins of the sequences, and the end of the last one, int32 [n + 1]."""
        return F.pad(self.last + 1, (1, 0)).to(torch.int32)

    def shortened(self) -> tuple[Packed, Tensor]:
        """Return the layout without each sequence's last token, and the rows [N - n] that are left."""
        groups = tuple((count, length - 1) for count, length in self.groups)
        left = torch.ones(int(sum(c * n for c, n in self.groups)), dtype=torch.bool, device=self.last.device)
        left[self.last] = False
        numbers = torch.arange(1, len(self.last) + 1, device=self.last.device)
        return Packed(groups, self.last - numbers, self.order), left.nonzero()[:, 0]

    def split(self, x: Tensor) -> list[Tensor]:
        """Return rows [N, width] as one [count, length, width] for each length."""
        parts = x.split([count * length for count, length in self.groups])
        return [part.unflatten(0, group) for part, group in zip(parts, self.groups)]

    def unpack(self, x: Tensor, length: int) -> Tensor:
        """Return rows [N, width] as sequences [n, length, width] in their original order, zeros behind their ends."""
        whole = [F.pad(part, (0, 0, 0, length - part.shape[1])) for part in self.split(x)]
        return self.restore(torch.cat(whole))

    def restore(self, x: Tensor) -> Tensor:
        """Return rows [n, ...] in packed order in their original order."""
        return torch.empty_like(x).index_copy(0, self.order, x)


class Attention(nn.Module):
    """Multi-head self-attention with separate q, k, v projections (the names of transformers' CLIP)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, causal: bool, seen: Tensor | None = None) -> Tensor:
        """[n, L, width] -> [n, L, width]; of the tokens only those of `seen` [n, L] are looked at, if given."""
        q, k, v = self._project(x, self.q_proj, self.k_proj, self.v_proj)
        return self.out_proj(self._attend(q, k, v, causal, seen))

    def packed(self, x: Tensor, layout: Packed) -> Tensor:
        """[N, width] -> [N, width], causal within each sequence."""
        q, k, v = self._project(x, self.q_proj, self.k_proj, self.v_proj)
        return self.out_proj(self.by_length(q, k, v, layout))

    def by_length(self, q: Tensor, k: Tensor, v: Tensor, layout: Packed) -> Tensor:
        """Attend within each sequence: all in one kernel, or all of one length at once."""
        if varlen.usable(q, self.heads):
            q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in (q, k, v))
            return varlen.attend(q, k, v, layout.offsets, layout.groups[-1][1]).flatten(1)
        parts = zip(layout.split(q), layout.split(k), layout.split(v))
        return torch.cat([self._attend(a, b, c, causal=True).flatten(0, 1) for a, b, c in parts])

    def pooled(self, x: Tensor, query: Tensor, seen: Tensor | None = None) -> Tensor:
        """Each sequence's one query [n, width] over all its tokens x [n, L, width] -> [n, width]."""
        return self._values(_weighted_mean(x, *self._logits_of(query), seen))

    def packed_pooled(self, x: Tensor, query: Tensor, layout: Packed) -> Tensor:
        """As `pooled`, over packed tokens x [N, width]; query [n, width] in packed order."""
        return self._values(self.pool_by_length(x, *self._logits_of(query), layout))

    def pool_by_length(self, x: Tensor, through: Tensor, constant: Tensor, layout: Packed) -> Tensor:
        """`_weighted_mean` within each sequence: all of one length at once."""
        counts = [count for count, _ in layout.groups]
        parts = zip(layout.split(x), through.split(counts), constant.split(counts))
        return torch.cat([_weighted_mean(*part) for part in parts])

    def _logits_of(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return [n, heads, width] and [n, heads, 1]: a token's logit is its product with the one, plus the other.

        One query needs no keys and values, which would be 2 L width^2 multiplications a sequence: q . (K x + b) =
        (K^T q) . x + q . b, and sum_j a_j (V x_j + b) = V (sum_j a_j x_j) + b, because attention a sums to 1.
        """
        q = self.q_proj(query).unflatten(-1, (self.heads, -1)).transpose(0, 1)  # [heads, n, d]
        q = q * q.shape[-1] ** -0.5
        keys, bias = (t.unflatten(0, (self.heads, -1)) for t in (self.k_proj.weight, self.k_proj.bias))
        return (q @ keys).transpose(0, 1), (q @ bias[..., None]).transpose(0, 1)

    def _values(self, pooled: Tensor) -> Tensor:
        """The output for each head's mean token [n, heads, width] -> [n, width]."""
        values = self.v_proj.weight.unflatten(0, (self.heads, -1)).mT  # [heads, width, d]
        return self.out_proj((pooled.transpose(0, 1) @ values).transpose(0, 1).flatten(1) + self.v_proj.bias)

    def _project(self, x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
        """Apply several projections as one matmul."""
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers])
        return F.linear(x, weight, bias).chunk(len(layers), -1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, causal: bool, seen: Tensor | None = None) -> Tensor:
        """[n, L, width] each -> [n, L, width]."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        mask = None if seen is None else seen[:, None, None]
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal).transpose(1, 2).flatten(2)


def _weighted_mean(x: Tensor, through: Tensor, constant: Tensor, seen: Tensor | None = None) -> Tensor:
    """The mean of tokens x [n, L, width] under each head's attention -> [n, heads, width]."""
    with torch.autocast(x.device.type, enabled=False):  # logits in float32, as attention kernels have them
        exact = torch.promote_types(x.dtype, torch.float32)
        tokens = x.to(exact)
        logits = through.to(exact) @ tokens.mT + constant.to(exact)
        if seen is not None:
            logits = logits.masked_fill(~seen[:, None], float("-inf"))
        return (logits.softmax(-1) @ tokens).to(x.dtype)


class MLP(nn.Module):
    """fc1, activation, fc2."""

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return self.fc2(self.activation(self.fc1(x)))


class Recomputable(nn.Module):
    """A block that can keep its input alone for the backward, and then compute the rest again.

    Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, arXiv 1604.06174. That happens inside of the
    block's forward, where FSDP and ZeRO have its weights together.
    """

    recompute = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As `compute`."""
        if self.recompute and self.training and torch.is_grad_enabled():
            return checkpoint(self.compute, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
        return self.compute(*args, **kwargs)

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """Do what the block does; nothing in it is random."""
        raise NotImplementedError


class Block(Recomputable):
    """Pre-norm transformer block: attention, then MLP, each added to its input."""

    def __init__(self, width: int, heads: int, hidden: int, activation: str, eps: float) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.self_attn = Attention(width, heads)
        self.mlp = MLP(width, hidden, activation)

    def compute(
        self,
        x: Tensor,
        causal: bool = False,
        layout: Packed | None = None,
        pool: bool = False,
        seen: Tensor | None = None,
    ) -> Tensor:
        """[n, L, width] or packed [N, width] -> the same; with `pool` only each sequence's pooled token [n, width].

        The pooled token is the first (no layout) or the last. It goes through forward as all else does, because
        that is what FSDP and ZeRO gather a block's weights for. Without a layout no token looks at those that are not
        in `seen` [n, L], if that is given.
        """
        normed = self.layer_norm1(x)
        if pool:
            x = self._pooled(x, normed, layout, seen)
        else:
            x = x + (self.self_attn(normed, causal, seen) if layout is None else self.self_attn.packed(normed, layout))
        return x + self.mlp(self.layer_norm2(x))

    def _pooled(self, x: Tensor, normed: Tensor, layout: Packed | None, seen: Tensor | None) -> Tensor:
        if layout is None:
            return x[:, 0] + self.self_attn.pooled(normed, normed[:, 0], seen)
        return x[layout.last] + self.self_attn.packed_pooled(normed, normed[layout.last], layout)


class Encoder(nn.Module):
    """A stack of blocks."""

    def __init__(self, width: int, layers: int, heads: int, hidden: int, activation: str, eps: float) -> None:
        super().__init__()
        blocks = [Block(width, heads, hidden, activation, eps) for _ in range(layers)]
        self.layers: Sequence[Block] = nn.ModuleList(blocks)  # type: ignore[assignment]

    def forward(
        self, x: Tensor, causal: bool = False, layout: Packed | None = None, seen: Tensor | None = None
    ) -> Tensor:
        """All tokens after the last block."""
        for block in self.layers:
            x = block(x, causal, layout, seen=seen)
        return x

    def pooled(self, x: Tensor, layout: Packed | None = None, seen: Tensor | None = None) -> Tensor:
        """The pooled token after the last block, [n, width]: the last block computes nothing else."""
        for block in self.layers[:-1]:
            x = block(x, causal=layout is not None, layout=layout, seen=seen)
        return self.layers[-1](x, layout=layout, pool=True, seen=seen)
