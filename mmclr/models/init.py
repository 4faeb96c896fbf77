"""The first weights of a run: random ones, a whole model's, or one tower's."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr.config import config, to_tree
from mmclr.errors import UserError
from mmclr.models import rechannel
from mmclr.models.captioning import decoder
from mmclr.models.config import ImageConfig, ModelConfig
from mmclr.models.foreign import build
from mmclr.models.formats import find
from mmclr.models.formats.weights import load_weights
from mmclr.models.pooling import pool
from mmclr.models.two_tower import TwoTower

PREFIXES = {"image": ("vision_model.", "visual_projection."), "text": ("text_model.", "text_projection.")}
PROJECTIONS = ("visual_projection.", "text_projection.")
IMAGE_POSITIONS = "vision_model.embeddings.position_embedding.weight"
TEXT_POSITIONS = "text_model.embeddings.position_embedding.weight"
PATCHES = "vision_model.embeddings.patch_embedding.weight"
MAY_DIFFER = {"size", "context", "bos", "eos", "pad", "vocab", "foreign", "resize", "resample", "intensity", "array"}
OF_CHANNELS = {"channels", "mean", "std"}  # may differ together
IDLE = {"patch", "layers", "heads", "mlp", "activation", "eps"}  # where a tower scatters


@config
class InitConfig:
    """A trained model to start from. Images may have another size and other channels, texts another length."""

    source: str = ""  # a run, checkpoint, model folder or name: ours, transformers', open_clip's; empty: random weights
    parts: Literal["both", "image", "text"] = "both"  # scale, and an equal captioner, come along with both
    projections: bool = True  # false: the layers into the shared space start anew


def check_source(here: ModelConfig, c: InitConfig) -> None:
    """Refuse a source that is not there, or whose architecture is another than that of a model yet to be built."""
    if c.source:
        _check(here, find.read_config(find.find(c.source)), _parts(c), c.source)


def start(model: TwoTower, c: InitConfig) -> None:
    """Fill a new model: foreign towers from where they come, then what `c` names."""
    for part, tower in (("image", model.vision_model), ("text", model.text_model)):
        own = getattr(model.config, part).foreign
        if own is not None and own.source and own.trained:
            build.fill_tower(part, tower, own, model.config.image if part == "image" else None)
    if c.source:
        _fill(model, c)


def _fill(model: TwoTower, c: InitConfig) -> None:
    there, weights = find.read(find.find(c.source))
    parts = _parts(c)
    _check(model.config, there, parts, c.source)
    taken = tuple(prefix for part in parts for prefix in PREFIXES[part] if c.projections or prefix not in PROJECTIONS)
    if c.parts == "both":
        taken += ("logit_scale", *(("logit_bias",) if model.logit_bias is not None else ()))
        taken += (decoder.PREFIX,) if there.captioner == model.config.captioner is not None else ()
    if c.projections and "image" in parts and there.image_pool == model.config.image_pool:
        taken += (pool.PREFIX,)
    own = model.state_dict()
    if "image" in parts and there.image.channels != model.config.image.channels:
        weights = _rechannelled(weights, there.image, model.config.image)
    arrays = model.config.image.array is not None
    weights = {name: _fit(name, value, own, arrays) for name, value in weights.items() if name.startswith(taken)}
    load_weights(model, {**{k: v for k, v in own.items() if not _demanded(k, taken)}, **weights}, f"init: {c.source}")


def _parts(c: InitConfig) -> list[str]:
    return ["image", "text"] if c.parts == "both" else [c.parts]


def _demanded(name: str, taken: tuple[str, ...]) -> bool:
    """Whether the source must have a weight; a logit bias it need not have."""
    return name.startswith(taken) and name != "logit_bias"


def _check(here: ModelConfig, there: ModelConfig, parts: list[str], source: str) -> None:
    """Refuse a source whose architecture is another, with the settings that make it the same."""
    settings: dict[str, Any] = {}
    for part in parts:
        ours, theirs = to_tree(getattr(here, part)), to_tree(getattr(there, part))
        if part == "image":
            _check_arrays(ours.get("array"), theirs.get("array"), source)
        if _architecture(ours) != _architecture(theirs):
            raise UserError(f"init: the {part} tower of {source} is not one of this kind; set model.preset={source}")
        scatters = part == "image" and ours.get("scatter") is not None and theirs.get("scatter") is not None
        ignored = MAY_DIFFER | (IDLE if scatters else set())
        if theirs.get("channels") != ours.get("channels") and not scatters:
            rechannel.refuse_unknown(theirs["channels"], ours["channels"], f"init: {source}")
            ignored = MAY_DIFFER | OF_CHANNELS
        differ = {key: value for key, value in theirs.items() if key not in ignored and value != ours[key]}
        settings.update({f"model.{part}.{key}": value for key, value in differ.items()})
    if settings:
        listed = " ".join(f"{key}={_text(value)}" for key, value in settings.items())
        trained = {value for key, value in settings.items() if key.endswith("activation")}
        why = f" (trained with {trained.pop()}, it computes nonsense with another activation)" if trained else ""
        raise UserError(f"init: {source} is of another architecture{why}; set {listed}, or model.preset={source}")


def _check_arrays(ours: dict[str, Any] | None, theirs: dict[str, Any] | None, source: str) -> None:
    """Refuse an image tower that reads something else than this one; arrays may have another length, unless rows."""
    kinds = [
        "images" if tree is None else f"{tree['channels']} channels, patch {tree['patch']}" for tree in (ours, theirs)
    ]
    rows = [tree is not None and tree["length"] == 1 for tree in (ours, theirs)]
    if kinds[0] != kinds[1] or rows[0] != rows[1]:
        kinds = [f"rows of {kind}" if row else kind for kind, row in zip(kinds, rows)]
        raise UserError(
            f"init: the image tower of {source} reads {kinds[1]}, and this one {kinds[0]}; set init.parts=text, or "
            f"model.image.array to what it has there"
        )


def _architecture(tree: dict[str, Any]) -> Any:
    return tree["foreign"] and tree["foreign"]["architecture"]


def _text(value: Any) -> str:
    return "null" if value is None else str(value).replace(" ", "").replace("'", "")


def _fit(name: str, value: Tensor, own: dict[str, Tensor], arrays: bool) -> Tensor:
    """Return a weight of the source in the shape that it has here, where positions are another number."""
    if name not in own or value.shape == own[name].shape or value.shape[1:] != own[name].shape[1:]:
        return value
    if name == IMAGE_POSITIONS:
        if arrays:
            return torch.cat([value[:1], resize_context(value[1:], len(own[name]) - 1)])
        return resize_grid(value, len(own[name]) - 1)
    return resize_context(value, len(own[name])) if name == TEXT_POSITIONS else value


def _rechannelled(weights: dict[str, Tensor], there: ImageConfig, here: ImageConfig) -> dict[str, Tensor]:
    """Return the weights of a source for the channels that images have here; see `rechannel`."""
    scales = rechannel.Scale(there.mean, there.std), rechannel.Scale(here.mean, here.std)
    if there.foreign is None:  # a constant that each patch gets can as well be part of its position
        patches, constant = rechannel.rechannel(weights[PATCHES], *scales)
        positions = weights[IMAGE_POSITIONS].clone()
        positions[1:] += constant
        return {**weights, PATCHES: patches, IMAGE_POSITIONS: positions}
    tower = build.image_tower(there)
    prefix = PREFIXES["image"][0]
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    made = rechannel.rechannelled(own, tower, *scales, tower.called)
    return {**weights, **{f"{prefix}{name}": value for name, value in made.items()}}


def resize_grid(positions: Tensor, patches: int) -> Tensor:
    """Return positions [1 + P, width] of a class token and a square grid for `patches`: bicubic, antialiased."""
    old, new = round((len(positions) - 1) ** 0.5), round(patches**0.5)
    grid = positions[1:].float().T.reshape(1, -1, old, old)
    grid = F.interpolate(grid, (new, new), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:1], grid.flatten(2)[0].T.to(positions.dtype)])


def resize_context(positions: Tensor, context: int) -> Tensor:
    """Return positions [L, width] for `context` tokens: the first ones, or all of them stretched linearly.

    Texts, and arrays, that fit into a shorter context thus keep their features exactly.
    """
    if context <= len(positions):
        return positions[:context]
    stretched = F.interpolate(positions.float().T[None], context, mode="linear", align_corners=False)
    return stretched[0].T.to(positions.dtype)


def freeze_unread(model: TwoTower) -> None:
    """Freeze the weights of foreign towers that their features do not depend on: no gradient would ever reach them."""
    c = model.config
    if c.image.foreign is not None:
        _freeze_unread(model.vision_model, torch.zeros(1, c.image.channels, c.image.size, c.image.size))
    if c.text.foreign is not None:
        tokens = torch.full((1, min(4, c.text.context)), c.text.eos)
        _freeze_unread(model.text_model, tokens, torch.tensor([tokens.shape[1]]))


def _freeze_unread(tower: nn.Module, *inputs: Tensor) -> None:
    weights = [p for p in tower.parameters() if p.requires_grad]
    if not weights:
        return
    training = tower.training
    feature = tower.eval()(*inputs)
    gradients = torch.autograd.grad(feature.sum(), weights, allow_unused=True)
    for weight, gradient in zip(weights, gradients):
        weight.requires_grad_(gradient is not None)
    tower.train(training)
