"""Towers of open_clip that ours cannot be: timm's, ResNets, attention pooling, SigLIP's, CoCa's.

They pool and project by themselves, so their feature is the embedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmclr.errors import UserError
from mmclr.models.config import ImageConfig, TextConfig
from mmclr.models.foreign.inputs import fill, refuse_dropped_patches
from mmclr.models.formats import open_clip
from mmclr.models.formats.weights import find_weights, load_weights, read_weights
from mmclr.models.rechannel import input_convolution
from mmclr.models.tower import LibraryTower
from mmclr.storage.json_file import read_json

Tree = dict[str, Any]
# The smallest other half: open_clip builds towers in pairs only.
OTHER_HALF: dict[str, Tree] = {
    "vision_cfg": {"image_size": 8, "patch_size": 8, "width": 8, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 2, "vocab_size": 2, "width": 8, "heads": 1, "layers": 1},
}


def describe(part: str, folder: Path) -> Tree:
    """Return the tree of an ImageConfig or TextConfig for the tower in an open_clip folder."""
    if not (folder / open_clip.CONFIG).is_file():
        raise UserError(f"{folder}: no {open_clip.CONFIG} there; name an open_clip folder")
    return open_clip.foreign_tree(part, read_json(folder / open_clip.CONFIG), str(folder))


class Image(LibraryTower):
    """An image tower of open_clip."""

    part = "image"

    def __init__(self, c: ImageConfig) -> None:
        super().__init__()
        assert c.foreign is not None
        self.model = _build(c.foreign.architecture).visual
        if c.channels != 3:
            self._set_channels(c.channels)
        self.last = _last(self)

    def _set_channels(self, channels: int) -> None:
        """Put a convolution over so many channels in place of that over RGB; open_clip has no key for it."""
        name, old = input_convolution(self, 3, self.called)
        new = nn.Conv2d(
            channels,
            old.out_channels,
            old.kernel_size,  # type: ignore[arg-type]
            old.stride,  # type: ignore[arg-type]
            old.padding,  # type: ignore[arg-type]
            bias=old.bias is not None,
        )
        self.set_submodule(name, new)

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Pixels [b, C, H, W] -> embeddings [b, width]."""
        refuse_dropped_patches(keep)
        return _first(self.model(pixels))


class Text(LibraryTower):
    """A text tower of open_clip, which wants rows of full length."""

    part = "text"

    def __init__(self, c: TextConfig) -> None:
        super().__init__()
        assert c.foreign is not None
        own = c.foreign.architecture["text_cfg"]
        self.context = c.context
        self.pad: int = own.get("pad_id", 0) if own.get("embed_cls") else c.pad  # with a class token it makes the mask
        self.model = _build(c.foreign.architecture).text
        self.last = _last(self)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Ids [n, L] of which the first lengths [n] are valid -> embeddings [n, width]."""
        return _first(self.model(fill(tokens, lengths, self.context, self.pad)))


def fill_tower(part: str, tower: Any, folder: Path) -> None:
    """Load the weights in a folder into a tower that was built from its architecture."""
    state = read_weights(find_weights(folder, *open_clip.WEIGHTS))
    rest = ("visual.", "logit_", "text_decoder.")
    if part == "image":
        own = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    else:
        own = {name.removeprefix("text."): value for name, value in state.items() if not name.startswith(rest)}
    load_weights(tower.model, own, str(folder))


def _build(architecture: Tree) -> Any:
    from open_clip import CustomTextCLIP

    name = architecture.get("vision_cfg", {}).get("timm_model_name") or ""
    if ":" in name:  # timm would fetch what such a name stands for
        raise UserError(f"{open_clip.CONFIG}: timm_model_name {name!r} is not one of timm's own architectures")
    tree = {**OTHER_HALF, **architecture}
    tree["vision_cfg"] = {**tree["vision_cfg"], "timm_model_pretrained": False}
    try:
        return CustomTextCLIP(**tree)
    except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"open_clip cannot build the tower ({repr(error)[:300]}); copy {open_clip.CONFIG} again"
        ) from None


def _last(tower: LibraryTower) -> frozenset[str]:
    """Return the names of the last layer's weights, which open_clip keeps beside the embeddings."""
    names = (name for name, _ in tower.named_parameters())
    return frozenset(name for name in names if name.rpartition(".")[2] in ("proj", "text_projection"))


def _first(output: Any) -> Tensor:
    """Return the pooled feature; towers that were made for captioning give their tokens too."""
    feature: Tensor = output[0] if isinstance(output, tuple) else output
    return feature
