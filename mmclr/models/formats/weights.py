"""Tensors on disk: safetensors files only, in one piece or in shards, and the check that they fit a module."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmclr.errors import UserError
from mmclr.storage.json_file import read_json

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def find_weights(folder: Path, *names: str) -> Path:
    """Return the first of the named files that `folder` has, a shards' index counting as the file it stands for."""
    for name in names:
        for path in (folder / name, folder / f"{name}.index.json"):
            if path.is_file():
                return path
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{folder}: only {pickles[0]} there, a pickle, which can run code and is never read; convert it to "
            f"{names[0]} where you trust it"
        )
    raise UserError(f"{folder}: no {names[0]} there; name a model folder, or copy what is missing")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or of all files that an index names."""
    if path.suffix != ".json":
        try:
            return load_file(path)
        except FileNotFoundError:
            raise UserError(f"{path}: this part of the weights is missing; copy it again") from None
        except (SafetensorError, OSError, ValueError, KeyError, OverflowError) as error:
            raise UserError(f"{path}: not a whole safetensors file ({str(error)[:200]}); copy it again") from None
    found: dict[str, Tensor] = {}
    for part in shards_of(path):
        weights = read_weights(part)
        if twice := sorted(found.keys() & weights.keys()):
            raise UserError(f"{part}: {twice[0]} is in another part of {path.name}, too; copy the folder again")
        found |= weights
    return found


def shards_of(path: Path) -> list[Path]:
    """Return the files that an index names. Raises UserError where one is no safetensors file beside it."""
    names = read_json(path).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{path}: no weight_map in it; copy it again")
    parts = sorted(set(names.values()))
    for name in parts:
        if "/" in name or "\\" in name or "\0" in name or not name.endswith(".safetensors"):
            raise UserError(f"{path}: it names {name[:100]!r}, which is no safetensors file beside it; copy it again")
        if not (path.parent / name).is_file():
            raise UserError(f"{path.parent / name}: this part of the weights is missing; copy it again")
    return [path.parent / name for name in parts]


def count_elements(folder: Path, *names: str) -> int | None:
    """Return how many numbers the weights in a folder have, from their headers; None where there are none."""
    path = next((p for name in names for p in (folder / name, folder / f"{name}.index.json") if p.is_file()), None)
    if path is None:
        return None
    total = 0
    for part in shards_of(path) if path.suffix == ".json" else [path]:
        try:
            with safe_open(part, "pt") as file:
                total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, OverflowError) as error:
            raise UserError(f"{part}: not a whole safetensors file ({str(error)[:200]}); copy it again") from None
    return total


def finite(weights: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Return weights that are numbers; raise UserError where one is not, or is of no kind that computes."""
    for name, value in weights.items():
        if name.endswith(("position_ids", "num_batches_tracked")):
            continue
        if not value.is_floating_point():
            raise UserError(f"{folder}: the weight {name} is {value.dtype}, and no floating point; copy it again")
        if not torch.isfinite(value if value.dtype.itemsize > 1 else value.float()).all():
            raise UserError(f"{folder}: the weight {name} holds values that are no numbers; take another checkpoint")
    return weights


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as transformers and open_clip read them."""
    state = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    save_file(state, path, metadata={"format": "pt"})


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Fill `model`; a name or shape that differs is one error that names the first few of each kind."""
    own = model.state_dict()
    weights = {name: value for name, value in weights.items() if not name.endswith(".position_ids")}
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [
        f"{name} is {list(weights[name].shape)} there and {list(own[name].shape)} here"
        for name in own.keys() & weights.keys()
        if weights[name].shape != own[name].shape
    ]
    faults = (
        [f"lacks {_some(missing)}"] * bool(missing) + [f"has unknown {_some(extra)}"] * bool(extra) + sorted(shapes)[:2]
    )
    if faults:
        raise UserError(f"{where}: weights of another architecture: it {'; '.join(faults)}")
    model.load_state_dict(weights)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
