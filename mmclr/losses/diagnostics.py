"""How a training goes, beside its loss: cheap numbers of one batch, streamed, the same on every rank.

They cost four to five matmuls of the batch with itself, about one loss; log them every so many steps.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses.algebra import Equal, Mask, Pairs, expected, top
from mmclr.losses.algebra.lse import dual_lse
from mmclr.losses.moments import effective_rank, log_mean_kernel, tolerance

QUANTILES = (0.05, 0.5, 0.95)


@torch.no_grad()
def diagnose(image: Tensor, text: Tensor, scale: Tensor, caption_id: Tensor | None = None) -> dict[str, float]:
    """Return numbers about a batch of pairs, image and text [b, D] unit-norm, by name; see the table below.

    With `caption_id` [b] equal captions are no wrong answers to each other, and `tolerance` tells how alike their
    images are (NaN where no caption occurs twice).

    matched_*, hardest_*        quantiles and mean of the cosine of a pair, and of an image's hardest wrong caption
    margin                      mean of the one less the other
    image_accuracy, text_...    share of images (captions) whose own caption (image) is the closest of the batch
    *_uniformity                log mean exp(-2 d^2) within images, within captions, across; -8 spread, 0 one point
    alignment                   mean d^2 of a pair, 0 to 4
    centroid_distance           distance of the two modalities' means, 0 to 2: the modality gap
    *_effective_rank            directions in use, 1 to D
    effective_negatives_of_...  how many wrong answers share the gradient at this scale, 1 to B - 1
    scale                       inverse temperature
    """
    image, text = (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for x in (image, text))
    same = Pairs() if caption_id is None else Equal(caption_id)
    matched = (image * text).sum(1)
    of_image, of_text = (top(x, y, 1, exclude=same).values[:, 0] for x, y in ((image, text), (text, image)))
    found = {
        **_spread("matched", matched),
        **_spread("hardest", of_image),
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


def fixed_negatives_loss(image: Tensor, text: Tensor, scale: Tensor, negatives: int = 255, seed: int = 0) -> float:
    """Return the InfoNCE of pairs [N, D], each against `negatives` others, whatever batches they came in.

    The pairs are drawn into groups of negatives + 1 by `seed`, the last filled up from the first: so the value is
    that of training batches of this size, and comparable between runs. Takes all pairs; no ranks talk.
    """
    size = min(negatives + 1, len(image))
    order = torch.randperm(len(image), generator=torch.Generator().manual_seed(seed))
    groups = torch.cat([order, order[: -len(order) % size]]).view(-1, size).to(image.device)
    total = 0.0
    for number, group in enumerate(groups):
        fresh = min(size, len(order) - number * size)
        s = scale.double() * image[group].double() @ text[group].double().T
        own = torch.arange(fresh, device=s.device)
        both = F.cross_entropy(s[:fresh], own, reduction="sum") + F.cross_entropy(s.T[:fresh], own, reduction="sum")
        total += float(both) / 2
    return total / len(order)


def _spread(name: str, values: Tensor) -> dict[str, Tensor]:
    every = parallel.gather(values)
    levels = torch.quantile(every[: 1 << 24], every.new_tensor(QUANTILES))
    return {f"{name}_mean": every.mean()} | {f"{name}_{q:.0%}": level for q, level in zip(QUANTILES, levels)}


def _mean(values: Tensor) -> Tensor:
    return parallel.mean(values.double())


def _effective_negatives(image: Tensor, text: Tensor, scale: Tensor, same: Mask) -> dict[str, Tensor]:
    """Return the mean of exp(entropy) of the softmax over an anchor's negatives: entropy = lse - mean similarity."""
    lse = dual_lse(image, text, scale, exclude=same)
    mean = expected(image, text, float(scale), exclude=same)
    entropies = {"image": lse.row - scale * mean.row, "text": lse.col - scale * mean.col}
    return {f"effective_negatives_of_{name}": _mean(e.exp()) for name, e in entropies.items()}
