"""What one process of a run will need in memory, from the run's config and the number of weights."""

from __future__ import annotations

from collections.abc import Set

from mmclr.train.run import RunConfig

# Numbers that a transformer block keeps for its backward, per token and unit of width: the inputs of both norms (2),
# what they give (2), queries, keys, values (3), attention's output (1), the MLP's hidden units before and after the
# activation (8), and copies that attention makes (1). The last block computes one token only, from keys and values.
KEPT_PER_BLOCK, KEPT_IN_LAST = 17, 5
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
    return kept + activations(run, min(run.micro_batch or pairs, pairs), tokens, BYTES[kind])


def activations(run: RunConfig, pairs: float, tokens: float, size: float) -> float:
    """Return the bytes that both towers keep for the backward. tokens: of a caption; size: bytes of a number."""
    image, text = run.model.image, run.model.text
    seen = 1 - min(run.patch_dropout.first, run.patch_dropout.last)
    patches = image.patches * seen + 1
    total = 0.0
    for length, tower in ((patches, image), (tokens * run.data.texts, text)):
        if run.activation_checkpointing:  # each block's input, and all of one block
            kept = tower.layers + KEPT_PER_BLOCK
        else:
            kept = KEPT_PER_BLOCK * (tower.layers - 1) + KEPT_IN_LAST
        total += pairs * size * length * tower.width * kept
    if image.deep:  # the batch in float32, and the patches that the first layer keeps; of RGB a few per cent
        total += pairs * (4 + size) * image.channels * image.size**2
    return total
