"""Check, before anything is allocated, that a model folder's config describes a model that its weights can fill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmclr.errors import UserError
from mmclr.models.config import ImageConfig, ModelConfig, TextConfig
from mmclr.models.formats.weights import count_elements

LAYERS, PARAMETERS = 1000, 100_000_000_000  # of a folder that has no weights beside its config


def check(config: ModelConfig, folder: Path, names: tuple[str, ...]) -> None:
    """Raise UserError where a config asks for more parameters, or layers, than the weights in its folder have."""
    held = count_elements(folder, *names)
    if config.captioner is not None and max(config.captioner.layers, config.captioner.queries // 64) > LAYERS:
        raise UserError(f"{folder}: its config asks for a captioner of {config.captioner.layers} layers; copy it again")
    for part in ("image", "text"):
        tower = getattr(config, part)
        asked = sum(_parameters(tower))
        layers = tower.scatter.blocks if isinstance(tower, ImageConfig) and tower.scatter else tower.layers
        if asked > (PARAMETERS if held is None else held) or layers > LAYERS:
            has = f"its weights have {held:,}" if held is not None else f"at most {PARAMETERS:,} are read"
            raise UserError(
                f"{folder}: its config asks for a {part} tower of {layers} layers and {asked:,} parameters or "
                f"more, and {has}; copy the folder again"
            )


def _parameters(tower: ImageConfig | TextConfig) -> Iterator[int]:
    """Yield parts of the number of parameters that a tower has at least."""
    if tower.foreign is not None:
        yield from _foreign(tower.foreign.architecture)
        return
    if isinstance(tower, ImageConfig) and (s := tower.scatter) is not None:
        inner = tower.width // 16
        yield 9 * inner * (2 * inner * s.blocks + 2 * tower.channels * s.paths)
        return
    yield tower.layers * (4 * tower.width**2 + 2 * tower.width * tower.mlp)
    if isinstance(tower, ImageConfig):
        a = tower.array
        yield tower.width * ((a.channels * a.patch if a else tower.channels * tower.patch**2) + tower.patches)
    else:
        yield tower.width * (tower.context + tower.vocab)


def _foreign(tree: dict[str, Any]) -> Iterator[int]:
    """Yield a lower bound for another library's tower: no number in its config but ids and sizes is idle."""
    values = {key: value for key, value in tree.items() if isinstance(value, int) and not isinstance(value, bool)}
    width = values.get("hidden_size", values.get("width", 1))
    for key in ("num_hidden_layers", "layers", "n_layers", "num_layers"):
        yield values.get(key, 0) * width
    for key in ("vocab_size", "intermediate_size", "max_position_embeddings", "context_length"):
        yield values.get(key, 0) * width
    yield sum(value for value in tree.get("depths") or () if isinstance(value, int))
    for part in ("vision_cfg", "text_cfg"):
        if isinstance(tree.get(part), dict):
            yield from _foreign(tree[part])
