"""A model as two plain functions of tensors, as graphs want them: no packing, no shapes that depend on values."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr.export import image_pool
from mmclr.models.two_tower import TwoTower


class Image(nn.Module):
    """Normalised pixels [n, C, H, W], or values of arrays [n, C, T], -> unit-norm embeddings [n, D]."""

    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """See the class."""
        return self.model.encode_image(pixel_values)


class Text(nn.Module):
    """Ids and mask [n, L] -> unit-norm embeddings [n, D]; each row's last valid token is its end-of-text."""

    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See the class."""
        lengths = attention_mask.sum(1)
        if self.model.config.text.foreign is not None:
            return self.model.encode_text(input_ids, lengths)
        text: Any = self.model.text_model
        x = text.tokens(input_ids)
        last = x.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, x.shape[-1]))[:, 0]
        return F.normalize(self.model.text_projection(last), dim=-1)


def trace(model: TwoTower, folder: Path) -> None:
    """Write image.onnx and text.onnx: any number of rows, texts of any length up to the context; and a learnt pool."""
    c = model.config
    rows, length = torch.export.Dim("batch"), torch.export.Dim("length", min=2, max=c.text.context)
    a, name = c.image.array, "pixel_values" if c.image.array is None else "array_values"
    side = (c.image.channels, c.image.size, c.image.size) if a is None else (a.channels, a.length)
    pixels = torch.zeros(2, *side)
    ids = torch.full((2, min(7, c.text.context)), c.text.eos)
    both = {0: rows, 1: length}
    _write(Image(model), (pixels,), folder / "image.onnx", [name], ({0: rows},))
    names = ["input_ids", "attention_mask"]
    _write(Text(model), (ids, torch.ones_like(ids)), folder / "text.onnx", names, (both, both))
    if image_pool.is_learnt(model):
        several = {0: rows, 1: torch.export.Dim("images", min=1, max=4096)}
        features, there = torch.ones(2, 3, c.embed), torch.ones(2, 3, dtype=torch.bool)
        inputs = ["image_embeds", "mask"]
        _write(
            image_pool.to_transformers(model), (features, there), folder / image_pool.GRAPH, inputs, (several, several)
        )


def _write(module: nn.Module, inputs: Any, path: Path, names: list[str], shapes: Any) -> None:
    with _quiet():
        program = torch.onnx.export(
            _captured(module.eval(), inputs, shapes),
            dynamo=True,
            input_names=names,
            output_names=[f"{path.stem}_embeds"],
            verbose=False,
            external_data=False,
        )
        assert program is not None
        _fold(program.model)
        program.save(path)


def _captured(module: nn.Module, inputs: Any, shapes: Any) -> torch.export.ExportedProgram:
    """Return the module's operations. Some of transformers' models fix the number of rows unless read strictly."""
    try:
        return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
    except (ValueError, torch._dynamo.exc.UserError):
        return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=True)


def _fold(model: Any) -> None:
    """Compute what depends on weights alone, as the projections that are joined into one matmul, once and for all."""
    from onnxscript import optimizer

    optimizer.optimize_ir(model, input_size_limit=1 << 40, output_size_limit=1 << 40)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own warnings off the terminal: what it made is checked by running it."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)
