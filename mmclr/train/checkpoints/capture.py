"""A model without its weights, to be filled with whole ones: for checkpoints, and for evaluation beside training."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


def hollow(model: Model) -> Model:
    """Return a copy of `model` whose parameters have shapes and no memory."""
    return copy.deepcopy(model, {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in model.parameters()})


def fill(shell: Model, weights: Mapping[str, Tensor]) -> Model:
    """Return a copy of `shell` that holds these very tensors."""
    model = copy.deepcopy(shell)
    model.load_state_dict(dict(weights), assign=True)
    return model.eval().requires_grad_(False)
