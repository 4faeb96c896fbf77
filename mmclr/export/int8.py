"""Graphs with weights of 8 bits, and what that costs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mmclr.data.samples.reader import normalise, read_all
from mmclr.export import parity
from mmclr.export.origin import Source


def quantise(folder: Path) -> None:
    """Write the graphs with int8 weights; activations are quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for name in ("image", "text"):
        quantize_dynamic(folder / f"{name}.onnx", folder / f"{name}.int8.onnx", weight_type=QuantType.QInt8)


def cost(source: Source, exact: parity.Peer, small: parity.Peer, shards: str = "") -> dict[str, float]:
    """Return how far the int8 embeddings turn, and what that does to retrieval on shards."""
    peers = {"float32": exact, "int8": small}
    c = source.model.config.image
    pixels = parity.prepare(parity.examples(c), c)
    embedded: list[tuple[str, Tensor, Tensor]] = [
        ("image", exact.image(pixels), small.image(pixels)),
        ("text", exact.text(parity.HARD_STRINGS), small.text(parity.HARD_STRINGS)),
    ]
    turned = {f"int8_lowest_cosine_{name}": float((a * b).sum(1).min()) for name, a, b in embedded}
    found = _recalls(source, peers, shards) if shards else {}
    return {**turned, **found}


def _recalls(source: Source, peers: dict[str, parity.Peer], shards: str, most: int = 2000) -> dict[str, float]:
    """Return recall at 1 of the first images by their first captions, with each kind of graph."""
    image = source.model.config.image
    images: dict[str, list[Tensor]] = {name: [] for name in peers}
    captions: list[str] = []
    for rows in read_all(shards, image, batch=64):
        normal = normalise(rows.pixels, image.mean, image.std, axes=rows.pixels.ndim - 2)
        for name, peer in peers.items():
            images[name].append(peer.image(normal))
        captions += [texts[0] for texts in rows.captions]
        if len(captions) >= most:
            break
    out = {}
    for name, peer in peers.items():
        x = torch.cat(images[name])
        y = torch.cat([peer.text(captions[i : i + 64]) for i in range(0, len(captions), 64)])
        out[f"{name}_recall_at_1_of_{len(captions)}"] = float(
            ((y @ x.T).argmax(1) == torch.arange(len(y))).float().mean()
        )
    return out
