"""Negatives that weigh less the more clusters they share with the anchor, or as a small network says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses.algebra import Pairs, TileWeight, joint_lse, merge
from mmclr.losses.algebra.tiles import pair_cosines
from mmclr.losses.clusters.clustering import Clustering
from mmclr.losses.objective import Facts, Objective

ALPHA = 10.0  # added to a cluster's size, so that small ones do not become too sharp


class MEOW(Objective, key="meow"):
    """Weigh negatives by how many clusterings tell them apart from the anchor, and pull samples to their clusters.

    Yu et al., Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Adaptively Weighted Negative
    Samples (MEOW), SDM 2023, arXiv 2212.13847. With T clusterings of image + text, a_ti the cluster of sample i,
    w_ij = 1 - sum_t [a_ti = a_tj] / T, s_ij = scale * <image_i, text_j>:
    L_image = mean_i [ log(exp s_ii + sum_{j != i} w_ij exp s_ij) - s_ii ],
    P_image = 1/T sum_t mean_i -log softmax_k(<image_i, c_tk> / phi_tk) at k = a_ti, with unit means c and phi_tk ~
    mean distance of the cluster's samples / log(n_k + 10): the largest where it has one, cut to the quantiles .1 to .9,
    with mean tau_proto. L = (L_image + L_text + proto * (P_image + P_text)) / 2.
    Reduces to: clip without masked duplicates, where no two samples share a cluster and proto is 0; so it is until
    there are clusters. Without include_pos to the decoupled loss.
    Differs from the paper: image and caption in place of two views of a node, and no graphs; both directions; the pair
    is in its own denominator unless include_pos is false; distances in phi are real ones, as in PCL, where the authors'
    code takes roots of inner products; a sum over clusters where it has their mean times the samples, a constant.
    """

    clusters: tuple[int, ...] = (256, 1024)  # of each clustering; at most one for every 4 samples
    refresh: int = 2000  # steps between two rounds of clustering; early in the training they come sooner
    include_pos: bool = True  # the pair is in its own denominator; false, as in the paper
    proto: float = 0.1  # weight of the pull to clusters, >= 0
    tau_proto: float = 0.1  # mean temperature of the clusters, above 0

    def __post_init__(self) -> None:
        if not self.clusters or self.tau_proto <= 0:
            raise ValueError("name at least one number of clusters, and a tau_proto above 0")

    def setup(self, facts: Facts) -> None:
        self.clustering = Clustering(self.clusters, facts, self.refresh)

    def forward(self, image: Tensor, text: Tensor, scale: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        both = F.normalize(image.detach() + text.detach(), dim=1)
        ready = self.clustering.ready
        self.clustering.keep(index, both)
        if not ready:
            return contrast(image, text, None, scale, weights, self.include_pos)
        ids = torch.stack([clusters.nearest(both) for clusters in self.clustering], 1)
        value = contrast(image, text, shared_clusters(parallel.gather(ids)), scale, weights, self.include_pos)
        if self.proto:
            pulls = [self._pull(number, image, text, ids[:, number]) for number in range(ids.shape[1])]
            value = value + self.proto * parallel.mean(torch.stack(pulls).mean(0), weights)
        return value

    def _pull(self, number: int, image: Tensor, text: Tensor, ids: Tensor) -> Tensor:
        """Return what it costs each sample to be told to which cluster it belongs, [b]."""
        clusters = self.clustering[number]
        there = clusters.counts > 0
        phi = temperatures(clusters.spreads[there], clusters.counts[there], self.tau_proto).to(image)
        means, own = F.normalize(clusters.means[there].to(image), dim=1), there.cumsum(0)[ids] - 1
        return (prototypes(image, means, phi, own) + prototypes(text, means, phi, own)) / 2

    def after_step(self) -> None:
        self.clustering.update()


class MEOWGiven(Objective, key="meow_given"):
    """Weigh negatives by the share of tags that tells them apart from the anchor.

    Yu et al., MEOW, SDM 2023, arXiv 2212.13847, its weights alone. As meow, with partitions of the samples that are
    given: each sample has one tag of each, G_i are its tags, w_ij = 1 - |G_i and G_j| / max(|G_i|, |G_j|):
    L = 1/2 (L_image + L_text), L_image = mean_i [ log(exp s_ii + sum_{j != i} w_ij exp s_ij) - s_ii ].
    Reduces to: clip without masked duplicates, where no two samples share a tag.
    Differs from the paper: as meow, with tags that are given, and samples may have different numbers of them.
    """

    include_pos: bool = True  # the pair is in its own denominator; false, as in the paper

    def forward(self, image: Tensor, text: Tensor, scale: Tensor, tags: Tensor, weights: Tensor) -> Tensor:
        return contrast(image, text, shared_tags(parallel.gather(tags)), scale, weights, self.include_pos)


class MEOWAdaptive(Objective, key="meow_adaptive"):
    """Weigh negatives as a small network says, which learns along with the model.

    Yu et al., Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Adaptively Weighted Negative
    Samples (AdaMEOW), TKDE 2024, arXiv 2212.13847. m_ij = sigmoid(<v, tanh(W image_i + W text_j + b)> + c), and w_ij is
    m_ij over its mean over the negatives of the anchor:
    L = 1/2 (L_image + L_text), L_image = mean_i [ log(exp s_ii + sum_{j != i} w_ij exp s_ij) - s_ii ].
    Reduces to: clip without masked duplicates, where all m_ij are equal.
    Differs from the paper: weights have the mean 1, without which the loss has no minimum; the pair weighs 1 in its own
    denominator; both directions; features are constants to the network, so that the model is not trained to please it.
    """

    hidden: int = 16  # units of the network
    sign: int = 1  # 1: weights lower the loss, and so those of what is likely no negative; -1: they raise it
    include_pos: bool = True  # the pair is in its own denominator

    def __post_init__(self) -> None:
        if self.sign not in (1, -1):
            raise ValueError(f"sign is 1 or -1, not {self.sign}")

    def setup(self, facts: Facts) -> None:
        self.first, self.second = nn.Linear(facts.width, self.hidden), nn.Linear(self.hidden, 1)

    def forward(self, image: Tensor, text: Tensor, scale: Tensor, weights: Tensor) -> Tensor:
        rows, cols = self.first(image.detach()), text.detach() @ self.first.weight.T
        network = [rows, cols, self.second.weight[0], self.second.bias]
        if self.sign < 0:
            network = [_Reversed.apply(x) for x in network]
        return adaptive(image, text, network, scale, weights, self.include_pos)


def contrast(
    image: Tensor, text: Tensor, log_weight: TileWeight | None, scale: Tensor, weights: Tensor, include_pos: bool
) -> Tensor:
    """Return (L_image + L_text) / 2 of pairs [b, D] with the logarithms of the weights of negatives: [].

    An anchor whose negatives all weigh 0 costs nothing.
    """

    def pairs(rows: slice, cols: slice) -> Tensor:
        tile = image.new_zeros(rows.stop - rows.start, cols.stop - cols.start)
        tile = tile if log_weight is None else log_weight(rows, cols).to(image.dtype)
        Pairs().drop(tile, rows, cols, tile, value=0.0 if include_pos else -torch.inf)
        return tile

    lse = joint_lse([(scale * image, text)], lambda s, log: s + log, pairs=[pairs])
    return _mean(lse.row, lse.col, scale * pair_cosines(image, text), weights)


def adaptive(
    image: Tensor,
    text: Tensor,
    network: Sequence[Tensor],
    scale: Tensor,
    weights: Tensor,
    include_pos: bool,
) -> Tensor:
    """Return (L_image + L_text) / 2 with weights sigmoid(<out, tanh(rows_i + cols_j)> + bias) of mean 1: [].

    `network` are rows and cols [b, H], hidden units before tanh, out [H] and bias [1].
    """
    rows, cols, out, bias = network
    hidden = rows.shape[1]
    of_rows = [*rows.unbind(1), *out[:, None].expand(-1, len(rows)), bias.expand(len(rows))]

    def log_weight(*vectors: Tensor) -> Tensor:
        one, factor = vectors[:hidden], vectors[hidden : 2 * hidden]
        add, other = vectors[2 * hidden], vectors[2 * hidden + 1 :]
        return F.logsigmoid(sum((f * torch.tanh(a + b) for f, a, b in zip(factor, one, other)), add))

    given: dict[str, Any] = {"rows": of_rows, "cols": cols.unbind(1), "exclude": Pairs()}
    sums = joint_lse([(scale * image, text)], lambda s, *vectors: s + log_weight(*vectors), **given)
    means = joint_lse([(image.detach(), text.detach())], lambda s, *vectors: log_weight(*vectors), **given)
    pair, more = scale * pair_cosines(image, text), math.log(max(1, parallel.count(image) - 1))

    def with_mean(total: Tensor, mean: Tensor) -> Tensor:
        some = mean > -torch.inf
        lse = torch.where(some, total - torch.where(some, mean, 0.0) + more, -torch.inf)
        return merge(lse, pair) if include_pos else lse

    return _mean(with_mean(sums.row, means.row), with_mean(sums.col, means.col), pair, weights)


def shared_clusters(every: Tensor) -> TileWeight:
    """Return log(1 - the share of clusterings in which two samples are in one cluster), from all ids [B, T]."""
    count = every.shape[1]
    logs = torch.log1p(-torch.arange(count + 1, dtype=torch.float64, device=every.device) / count)

    def tile(rows: slice, cols: slice) -> Tensor:
        return logs[sum((a[rows, None] == a[cols]).long() for a in every.unbind(1))]

    return tile


def shared_tags(every: Tensor) -> TileWeight:
    """Return log(1 - the share of tags that two samples have in common), from all tags [B, G], -1 for none."""
    counts = (every >= 0).sum(1)
    used = [(every[:, g], every[:, g] >= 0) for g in range(every.shape[1]) if bool((every[:, g] >= 0).any())]

    def tile(rows: slice, cols: slice) -> Tensor:
        same = counts.new_zeros(rows.stop - rows.start, cols.stop - cols.start)
        for one, there in used:
            for other, _ in used:
                same += (one[rows, None] == other[cols]) & there[rows, None]
        most = torch.maximum(counts[rows, None], counts[cols]).clamp_min(1)
        return torch.log1p(-same.double() / most)

    return tile


def prototypes(x: Tensor, means: Tensor, phi: Tensor, ids: Tensor) -> Tensor:
    """Return -log softmax of <x_i, mean_k> / phi_k at k = ids_i: [b, D], [K, D], [K], [b] -> [b]."""
    return F.cross_entropy(x @ means.T / phi, ids, reduction="none")


def temperatures(spreads: Tensor, counts: Tensor, mean: float) -> Tensor:
    """Return the temperature of each cluster, [K], from the mean distance of its samples and how many they are."""
    raw = concentration(spreads, counts)
    raw = torch.where(counts > 1, raw, raw.max())
    low, high = (torch.quantile(raw, q) for q in (0.1, 0.9))
    raw = raw.clamp(low, high)
    average = raw.mean()
    return torch.where(average > 0, mean * raw / average, mean)


def concentration(spreads: Tensor, counts: Tensor) -> Tensor:
    """Return the mean distance of a cluster's samples over the logarithm of how many they are, and ALPHA more."""
    return spreads / (counts + ALPHA).log()


def _mean(row: Tensor, col: Tensor, pair: Tensor, weights: Tensor) -> Tensor:
    each = [torch.where(lse > -torch.inf, lse - pair, 0.0) for lse in (row, col)]
    return parallel.mean((each[0] + each[1]) / 2, weights)


class _Reversed(torch.autograd.Function):
    """A number whose gradient has the other sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad
