"""Forecast of the memory of one process of a run, from the run's config and the number of weights."""

from __future__ import annotations

import math
from collections.abc import Set

import numpy as np

from mmclr.data.pixels.choose import choose
from mmclr.features.provider import build_providers
from mmclr.losses.weighted_sum import build_terms, needs
from mmclr.models.config import ImageConfig
from mmclr.train.run import RunConfig
from mmclr.vocabulary import FEATURES

# Numbers that a transformer block keeps for its backward, per token and unit of width: the inputs of both norms (2),
# what they give (2), queries, keys, values (3), attention's output (1), the MLP's hidden units before and after the
# activation (8), and copies that attention makes (1). The last block computes one token only, from keys and values.
KEPT_PER_BLOCK, KEPT_IN_LAST = 17, 5
KEPT_PER_RESIDUAL = 4  # what its two convolutions and its two batch norms take in, of maps as large as the block's
SPECTRA = 32  # bytes of a pixel and angle in a scattering transform: three complex numbers at once, two real ones
BYTES = {"float32": 4.0, "bf16": 2.25, "fp16": 2.25}  # of each: under autocast, norms and residuals stay in float32
GIB = 2**30


def memory(
    run: RunConfig, weights: int, tokens: float, kind: str, processes: int, cut: Set[str] = frozenset()
) -> float:
    """Return the bytes that one of `processes` needs at its peak.

    tokens: of a caption, on average; kind: what the towers compute in; cut: what the processes share out among
    themselves, of weights, gradients and states.
    """
    copies = {"weights": 1 + bool(run.average.decay), "gradients": 1, "states": 2}  # the average; Adam's two moments
    kept = sum(4 * weights * n / (processes if name in cut else 1) for name, n in copies.items())
    if BYTES[kind] < 4:
        kept += 2 * weights  # autocast's copies of the weights
    pairs = run.data.batch / processes
    at_once = min(run.micro_batch or pairs, pairs)
    return kept + pixels(run, pairs, at_once) + activations(run, at_once, tokens, BYTES[kind])


def asked(run: RunConfig) -> frozenset[str]:
    """Return the features that the run's objectives and providers ask for."""
    own = build_providers(run.providers).values()
    terms = build_terms(run.objectives, run.micro_batch, bool(run.teacher))
    return frozenset(needs(terms).union(*(provider.asks for provider in own)))


def seen(run: RunConfig) -> dict[str, int]:
    """Return what the image tower keeps activations of, for each sample: its images, and how many of each pixel set."""
    taught = {FEATURES[name].pixels for name in asked(run) if FEATURES[name].gradient}
    return {"image": run.data.image_slots()} | {
        name: count for name, count in run.data.pixel_sets().items() if name in taught
    }


def pixels(run: RunConfig, pairs: float, at_once: float) -> float:
    """Return the bytes of pixels: of `pairs` samples as they are loaded, of `at_once` as the tower takes them."""
    data = run.data.asked_alone(asked(run))
    medium = choose(run.model.image, data)
    view, made = math.prod(medium.shape), data.makers()
    loaded = data.image_slots() + sum(count for name, count in data.pixel_sets().items() if name not in made)
    return view * (pairs * loaded * np.dtype(medium.dtype).itemsize + at_once * 4 * sum(seen(run).values()))


def activations(run: RunConfig, pairs: float, tokens: float, size: float) -> float:
    """Return the bytes that both towers keep for the backward. tokens: of a caption; size: bytes of a number."""
    image, text = run.model.image, run.model.text
    patches = image.patches * (1 - min(run.patch_dropout.first, run.patch_dropout.last)) + 1
    images, texts = sum(seen(run).values()), run.data.texts
    if "text_views" in asked(run):
        texts += run.data.text_views
    if "text_sources" in asked(run):
        texts += len(run.data.text_sources)
    total = pairs * images * scattered(image, size) if image.scatter else 0.0
    if image.scatter:
        images = 0  # of which the transformer's blocks keep nothing
    for length, tower in ((patches * images, image), (tokens * texts, text)):
        if run.activation_checkpointing:  # each block's input, and all of one block
            kept = tower.layers + KEPT_PER_BLOCK
        else:
            kept = KEPT_PER_BLOCK * (tower.layers - 1) + KEPT_IN_LAST
        total += pairs * size * length * tower.width * kept
    if image.deep:  # the batch in float32, and the patches that the first layer keeps; of RGB a few per cent
        total += pairs * (4 + size) * image.channels * image.size**2
    return total


def scattered(image: ImageConfig, size: float) -> float:
    """Return the bytes that a scattering tower needs for an image: what it keeps, or its transform before that."""
    s = image.scatter
    assert s is not None
    places, inner = (image.size // 2**s.J) ** 2, image.width // 16
    coefficients = places * image.channels * s.paths
    kept = coefficients * (4 + size) + size * places * (4 * inner + KEPT_PER_RESIDUAL * inner * s.blocks)
    spectra = image.channels * s.L * (image.size + 2 * 2**s.J) ** 2
    return max(kept, 2 * 4 * coefficients + SPECTRA * spectra)
