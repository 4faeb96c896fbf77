"""Contrast with a memory of what each sample looked like on its former visits."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel, sample_random
from mmclr.losses.algebra import Equal, dual_lse
from mmclr.losses.algebra.masks import MISSING
from mmclr.losses.negatives import Duplicates, not_negatives
from mmclr.losses.objective import Facts, Objective
from mmclr.losses.per_sample_state import Table
from mmclr.losses.targets import mean_of_equals


class CTVIS(Objective, key="ctvis"):
    """Compare each sample with averaged embeddings of the batch's samples from former epochs, some of them wrong.

    Ying et al., CTVIS: Consistent Training for Online Video Instance Segmentation, ICCV 2023, arXiv 2307.12616. With
    memories m, n of images and captions by key and s(x, y) = scale * <x, y>:
    L = mean_i softplus(log sum_{j != i} exp s(image_i, n_j) - s(image_i, n_i)), halved with the same of captions and m;
    + aux_weight * mean_ij (<image_i, n_j> - [i = j])^2. After the step with embedding e:  m <- unit((1-b) m + b e),
    b = max(0, mean cosine of e with all e before).
    Reduces to: clip, where memories equal the batch (so in the first epoch: what is not there yet is the embedding).
    Differs from the paper: samples of both modalities instead of video tracks, memories are unit vectors. Keeps
    16 D + 12 bytes a row, shared out among ranks; a newcomer takes the row of what it collides with.
    """

    key_by: Literal["image_id", "caption_id", "index"] = "image_id"  # what shares a memory: images, captions, none
    capacity: int = 262_144  # rows of the memory; no more than 4 for each sample are made
    memory: float = 0.5  # share of the anchors whose positive comes from memory too, 0 to 1
    aux_weight: float = 0.0  # weight of the cosines' squared errors, >= 0
    noise: float = 0.001  # share of the updates that are spoilt, 0 to 1
    spoil: Literal["other", "jitter"] = "other"  # with another sample's embedding, or with Gaussian noise
    sigma: float = 0.05  # length of that noise
    duplicates: Duplicates = "mask"  # what equal captions or equal images are to each other

    def __post_init__(self) -> None:
        for name in ("memory", "noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, 0 to 1, not {getattr(self, name)}")

    def setup(self, facts: Facts) -> None:
        self.rows = min(self.capacity, 4 * max(1, facts.samples))
        # both memories, both sums of embeddings, number of visits; and whose they are
        self.kept = Table(self.rows, torch.zeros(4 * facts.width + 1))
        self.owner = Table(self.rows, torch.zeros(1, dtype=torch.int64))

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
        keys = {"index": index, "image_id": image_id, "caption_id": caption_id}[self.key_by]
        same = not_negatives("mask", image_id, caption_id) if self.duplicates == "mask" else Equal(keys)
        row = self.kept.read(torch.where((index < 0) | (keys == MISSING), -1, keys % self.rows)).to(image.dtype)
        known = (row[:, -1:] > 0) & (self.owner.read(keys % self.rows) == keys[:, None])
        own = torch.cat([image, text], 1)
        remembered = torch.where(known, row[:, : own.shape[1]], own).chunk(2, 1)
        self._keep(keys, index, own.detach(), torch.where(known, row, 0.0))
        recall = sample_random.uniform(index, sample_random.seed(index), 1) < self.memory
        loss = torch.zeros_like(weights)
        for x, y, m in ((image, text, remembered[1]), (text, image, remembered[0])):
            positive = scale * (x * torch.where(recall, m, y)).sum(1)
            loss = loss - F.logsigmoid(positive - dual_lse(x, m, scale, exclude=same).row) / 2
            if self.aux_weight:
                loss = loss + self.aux_weight * _squared_errors(x, m) / 2
        return parallel.mean(loss, weights)

    def _keep(self, keys: Tensor, index: Tensor, e: Tensor, row: Tensor) -> None:
        """Put aside what the memory takes in after the step."""
        seed = sample_random.seed(keys)
        spoilt = sample_random.uniform(keys, seed, 1) < self.noise
        if self.spoil == "other" and parallel.maximum(spoilt.any().float()):
            e = torch.where(spoilt, parallel.gather(e)[sample_random.partners(index, seed)], e)
        e = torch.stack([F.normalize(part, dim=1) for part in mean_of_equals(e, keys).chunk(2, 1)], 1)
        m, total = row[:, :-1].unflatten(1, (2, 2, -1)).unbind(1)  # [b, 2, D]
        visits = row[:, -1:]
        near = ((e * total).sum(2, keepdim=True) / visits[..., None].clamp_min(1)).clamp_min(0)
        m = F.normalize(torch.where(visits[..., None] > 0, m.lerp(e, near), e), dim=2)
        if self.spoil == "jitter":
            drawn = sample_random.uniform(keys, seed + 1, e.shape[1:].numel())
            normal = torch.special.ndtri(drawn.clamp_min(1e-16)).to(e.dtype)
            m = torch.where(
                spoilt[..., None], F.normalize(m + self.sigma * normal.view_as(e) / e.shape[2] ** 0.5, dim=2), m
            )
        self.found = (
            self._winners(keys, index),
            keys[:, None],
            torch.cat([m.flatten(1), (total + e).flatten(1), visits + 1], 1),
        )

    def _winners(self, keys: Tensor, index: Tensor) -> Tensor:
        """Return the row of each key, -1 where it is missing and where another key of the batch takes the row."""
        rows, nobody = parallel.rows_of(len(keys)), (index < 0) | (keys == MISSING)
        every = rows.gather(torch.where(nobody, torch.iinfo(torch.int64).min, keys))
        places = torch.unique(every % self.rows, return_inverse=True)[1]
        best = torch.zeros_like(every).scatter_reduce(0, places, every, "amax", include_self=False)[places]
        return torch.where((rows.own(best) == keys) & ~nobody, keys % self.rows, -1)

    def after_step(self) -> None:
        rows, keys, values = self.found
        self.kept.write(rows, values)
        self.owner.write(rows, keys)


def _squared_errors(x: Tensor, m: Tensor) -> Tensor:
    """Return mean_j (<x_i, m_j> - [i = j])^2 over the rows of all ranks: [b], by way of the second moment of m."""
    samples = parallel.count(x)
    squares = ((x @ parallel.total(m.T @ m)) * x).sum(1)
    return (squares + 1 - 2 * (x * m).sum(1)) / samples
