"""Diagnostics of a training beside its loss: cheap numbers of one batch, streamed, the same on every rank.

They cost six to seven matmuls of the batch with itself, about two losses; log them every so many steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses.algebra import Equal, Mask, Pairs, expected, groups, top, weighted
from mmclr.losses.algebra.lse import dual_lse
from mmclr.losses.algebra.tiles import widen
from mmclr.losses.blank import samples_alone
from mmclr.losses.moments import effective_rank, log_mean_kernel, tolerance

QUANTILES = (0.05, 0.5, 0.95)


@torch.no_grad()
def diagnose(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    caption_id: Tensor | None = None,
    real: Tensor | None = None,
) -> dict[str, float]:
    """Return numbers about a batch of pairs, image and text [b, D] unit-norm, by name; see the table below.

    With `caption_id` [b] equal captions are no wrong answers to each other, and `tolerance` tells how alike their
    images are. `real` bool [b] says which rows are samples; others are left out. A number is NaN where the batch has
    nothing that it could be about: no wrong answer, or no caption twice. Without samples only the scale is told.

    matched_*, hardest_*        quantiles and mean of the cosine of a pair, and of an image's hardest wrong caption
    matched_variance            of the cosine of a pair
    negative_mean, ..._variance of the cosines of an image to wrong captions, over all such pairs
    margin                      mean of the cosine of a pair less that of the hardest wrong caption
    image_accuracy, text_...    share of images (captions) whose own caption (image) is the closest of the batch
    *_uniformity                log mean exp(-2 d^2) within images, within captions, across; -8 spread, 0 one point
    alignment                   mean d^2 of a pair, 0 to 4
    centroid_distance           distance of the two modalities' means, 0 to 2: the modality gap
    *_effective_rank            directions in use, 1 to D
    effective_negatives_of_...  how many wrong answers share the gradient at this scale, 1 to B - 1
    scale                       inverse temperature
    """
    given = {"image": image, "text": text, "caption_id": caption_id, "real": real}
    with samples_alone({name: widen(x) for name, x in given.items() if x is not None}) as kept:
        return _numbers(kept.features["image"], kept.features["text"], scale, kept.features.get("caption_id"))


def _numbers(image: Tensor, text: Tensor, scale: Tensor | float, caption_id: Tensor | None) -> dict[str, float]:
    if not parallel.count(image):
        return {"scale": float(scale)}
    same = Pairs() if caption_id is None else Equal(caption_id)
    matched = (image * text).sum(1)
    of_image, of_text = (top(x, y, 1, exclude=same).values[:, 0] for x, y in ((image, text), (text, image)))
    found = {
        **_spread("matched", matched),
        **_spread("hardest", of_image),
        "matched_variance": parallel.mean((matched - parallel.mean(matched)).square()),
        **_negative(image, text, same, caption_id),
        "margin": _mean(matched - of_image),
        "image_accuracy": _mean(matched > of_image),
        "text_accuracy": _mean(matched > of_text),
        "image_uniformity": log_mean_kernel(image, image, 2.0),
        "text_uniformity": log_mean_kernel(text, text, 2.0),
        "cross_uniformity": log_mean_kernel(image, text, 2.0),
        "alignment": _mean(2 - 2 * matched),
        "centroid_distance": (parallel.mean(image) - parallel.mean(text)).norm(),
        "image_effective_rank": effective_rank(image),
        "text_effective_rank": effective_rank(text),
        "scale": scale,
        **_effective_negatives(image, text, scale, same),
    }
    if caption_id is not None:
        found["tolerance"] = tolerance(image, caption_id)
    return {name: float(value) for name, value in found.items()}


def fixed_negatives_loss(
    image: Tensor, text: Tensor, scale: Tensor | float, negatives: int = 255, seed: int = 0
) -> float:
    """Return the InfoNCE of pairs [N, D], each against `negatives` others, whatever batches they came in.

    The pairs are drawn into groups of negatives + 1 by `seed`, the last filled up from the first: so the value is
    that of training batches of this size, and comparable between runs. Takes all pairs; no ranks talk.
    """
    total = 0.0
    for s, fresh in fixed_batches(image, text, scale, negatives, seed):
        own = torch.arange(fresh, device=s.device)
        both = F.cross_entropy(s[:fresh], own, reduction="sum") + F.cross_entropy(s.T[:fresh], own, reduction="sum")
        total += float(both) / 2
    return total / len(image) if len(image) else math.nan


def fixed_batches(
    image: Tensor, text: Tensor, scale: Tensor | float, negatives: int = 255, seed: int = 0
) -> Iterator[tuple[Tensor, int]]:
    """Yield the logits of groups of pairs [n, n] in float64, and how many of its first pairs no earlier group had."""
    size = max(1, min(negatives + 1, len(image)))
    order = torch.randperm(len(image), generator=torch.Generator().manual_seed(seed))
    groups = torch.cat([order, order[: -len(order) % size]]).view(-1, size).to(image.device)
    for number, group in enumerate(groups):
        yield float(scale) * image[group].double() @ text[group].double().T, min(size, len(order) - number * size)


def _spread(name: str, values: Tensor) -> dict[str, Tensor]:
    every = parallel.gather(values)
    every = every[every > -torch.inf]  # of what there is
    if not len(every):
        every = every.new_full((1,), torch.nan)
    levels = torch.quantile(every[: 1 << 24], every.new_tensor(QUANTILES))
    return {f"{name}_mean": every.mean()} | {f"{name}_{q:.0%}": level for q, level in zip(QUANTILES, levels)}


def _negative(image: Tensor, text: Tensor, same: Mask, caption_id: Tensor | None) -> dict[str, Tensor]:
    """Return mean and variance of the cosines of images and wrong captions, NaN where there is none.

    They are summed relative to a value near their mean, which <(image, 1), (text, -middle)> takes off.
    """
    middle = parallel.mean(image) @ parallel.mean(text)
    ones = torch.ones_like(image[:, :1])
    x, y = torch.cat([image, ones], 1), torch.cat([text, -middle * ones], 1)
    rows = parallel.rows_of(len(image))
    every = rows.gather(y)

    def kept(at: slice, cols: slice) -> Tensor:
        cosines = x[at.start - rows.first : at.stop - rows.first] @ every[cols].T
        return same.keep(at, cols, torch.empty_like(cosines)).mul_(cosines)

    found = weighted(x, y, kept)
    alone = torch.arange(rows.total, device=image.device)
    numbers, count = groups(alone if caption_id is None else rows.gather(caption_id))
    pairs = rows.total**2 - torch.bincount(numbers, minlength=count).square().sum()
    mean, square = (parallel.total(part.double().sum()) / pairs for part in (found.row_total, found.row))
    return {"negative_mean": middle + mean, "negative_variance": square - mean**2}


def _mean(values: Tensor) -> Tensor:
    """Return the mean over all ranks of what is not infinite, [], NaN where nothing is: -inf is a missing value."""
    there = ~values.isinf()
    return parallel.total(torch.where(there, values, 0.0).double().sum()) / parallel.total(there.double().sum())


def _effective_negatives(image: Tensor, text: Tensor, scale: Tensor | float, same: Mask) -> dict[str, Tensor]:
    """Return the mean of exp(entropy) of the softmax over an anchor's negatives: entropy = lse - mean similarity."""
    lse = dual_lse(image, text, scale, exclude=same)
    mean = expected(image, text, scale, exclude=same)
    entropies = {"image": lse.row - scale * mean.row, "text": lse.col - scale * mean.col}
    # an anchor without a wrong answer has no such number
    exps = {name: torch.where(e == -torch.inf, e, e.exp()) for name, e in entropies.items()}
    return {f"effective_negatives_of_{name}": _mean(e) for name, e in exps.items()}
