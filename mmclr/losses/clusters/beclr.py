"""Further positives: the nearest of a sample's own cluster in a memory of earlier samples."""

from __future__ import annotations

import torch
from torch import Tensor

from mmclr import parallel
from mmclr.losses.algebra import Where, chosen, dual_lse, merge, top
from mmclr.losses.clusters.clustering import Clustering
from mmclr.losses.negatives import Duplicates, not_negatives
from mmclr.losses.objective import Facts, Objective


class BECLR(Objective, key="beclr"):
    """Pull an image to its caption and to the captions nearest to that, from its cluster of a memory of earlier ones.

    Poulakakis-Daktylidis and Jamali-Rad, BECLR: Batch Enhanced Contrastive Few-Shot Learning, ICLR 2024, arXiv
    2402.02444, its memory (DyCE). With t_ip, p = 1..k_i, the captions of the memory in the cluster of text_i that are
    nearest to it, other samples' ones, without gradient, and N_i the captions of the batch that are its negatives:
    l_ij = scale * <image_i, text_j>, m_ip = scale * <image_i, t_ip>,
    L_image = mean_i [ log(exp l_ii + sum_{N_i} exp l_ij + sum_p exp m_ip) - (l_ii + sum_p m_ip) / (1 + k_i) ],
    L = (L_image + L_text) / 2, where L_text has the roles exchanged and a memory of images.
    Reduces to: clip, for k 0; so it is until there are clusters.
    Differs from the paper: image and caption in place of two views, and InfoNCE in place of its loss of cosines with an
    EMA teacher; clusters are of Lloyd's rounds by distances, where the authors' code hands distances to Sinkhorn as if
    they were similarities; what is kept is the newest of each place in the memory.
    """

    k: int = 5  # further positives of each sample, at most; >= 0
    clusters: int = 200  # of the memory; at most one for every 4 samples
    memory: int = 8192  # samples that are kept, of each side
    refresh: int = 500  # steps between two rounds of clustering; early in the training they come sooner
    duplicates: Duplicates = "mask"  # "negative": equal images or captions are negatives too

    def __post_init__(self) -> None:
        if self.k < 0:
            raise ValueError(f"k is a number of positives, 0 or more, not {self.k}")

    def setup(self, facts: Facts) -> None:
        self.images, self.texts = (
            Clustering([self.clusters], facts, self.refresh, reservoir=self.memory) for _ in range(2)
        )

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        index: Tensor,
        image_id: Tensor,
        caption_id: Tensor,
        weights: Tensor,
    ) -> Tensor:
        lse = dual_lse(image, text, scale, exclude=not_negatives(self.duplicates, image_id, caption_id))
        near = [lse.pair[:, None]] * 2
        for number, (x, y, memory) in enumerate(((image, text, self.texts), (text, image, self.images))):
            ready = memory.ready
            memory.keep(index, y)
            if ready and self.k:
                near[number] = torch.cat([near[number], neighbours(x, y.detach(), memory, index, self.k, scale)], 1)
        return parallel.mean(pull(lse.row, near[0]) + pull(lse.col, near[1]), weights) / 2

    def after_step(self) -> None:
        self.images.update()
        self.texts.update()


def neighbours(x: Tensor, y: Tensor, memory: Clustering, index: Tensor, k: int, scale: Tensor) -> Tensor:
    """Return scale * <x_i, m> for the k samples m of the memory that are nearest to y_i, in its cluster: [b, k].

    x and y [b, D] are the two sides of the pairs `index`, y constants. -inf where the cluster has no further sample; a
    pair's own sample is none.
    """
    clusters = memory[0]
    kept, numbers = memory.memory()
    facts = torch.stack([numbers, clusters.nearest(kept)], 1)
    with parallel.equally_many(False):
        rows = parallel.rows_of(len(kept))
        every, (others, which) = rows.gather(kept).to(y), rows.gather(facts).unbind(1)
    order = others.argsort()  # whatever the number of processes
    every, others, which = every[order], others[order], which[order]
    own, samples = parallel.gather(clusters.nearest(y)), parallel.gather(index)

    def left_out(rows: slice, cols: slice) -> Tensor:
        return (own[rows, None] != which[cols]) | (samples[rows, None] == others[cols])

    found = top(y, every, k, exclude=Where(left_out), shared=True)
    return torch.where(found.values > -torch.inf, scale * chosen(x, every, found.columns), -torch.inf)


def pull(negatives: Tensor, positives: Tensor) -> Tensor:
    """Return the loss of anchors from their negatives' log-sum-exp [b] and the logits of positives [b, p]: [b].

    -inf is no positive; the first is always there.
    """
    some = positives > -torch.inf
    mean = torch.where(some, positives, 0.0).sum(1) / some.sum(1)
    return merge(negatives, positives.logsumexp(1)) - mean
