"""Models that are made of trained ones: several side by side, or one with a head on top."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mmclr.errors import UserError
from mmclr.heads import Head
from mmclr.models.formats.find import STAGES
from mmclr.models.pooling import pool
from mmclr.models.two_tower import TwoTower
from mmclr.storage.json_file import read_json

Encode = Callable[[TwoTower], Tensor]  # what one model makes of the images, or of the texts


class Composed(nn.Module):
    """Encodes like a TwoTower, whose towers are not one image and one text tower; `config` is that of the first."""

    captioner = text_model = None

    def __init__(self, models: Sequence[TwoTower], embed: int) -> None:
        super().__init__()
        self.models = nn.ModuleList(model.encoders() for model in models)
        self.config = dataclasses.replace(models[0].config, embed=embed, captioner=None)
        scales = torch.stack([model.scale.detach() for model in models])
        self.logit_scale = nn.Parameter(scales.mean().log(), requires_grad=False)
        self.logit_bias = None

    def join(self, parts: list[Tensor], side: str) -> Tensor:
        """Return one embedding from each model's, unit vectors [n, D]; side is "image" or "text"."""
        raise NotImplementedError

    @property
    def scale(self) -> Tensor:
        """Inverse temperature, a scalar: the mean of the models'."""
        return self.logit_scale.float().exp()

    def encode(self, how: Encode, side: str) -> Tensor:
        """Return the embedding of a side from `how` each model encodes it."""
        return self.join([how(model) for model in self.models], side)  # type: ignore[arg-type]

    def encode_image(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Normalised pixels [b, C, H, W] -> unit-norm embeddings [b, D]."""
        return self.encode(lambda model: model.encode_image(pixels, keep), "image")

    def encode_images(self, pixels: Tensor, counts: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return one unit-norm embedding [b, D] of each sample's images: see `TwoTower.encode_images`."""
        return self.encode(lambda model: model.encode_images(pixels, counts, keep), "image")

    def encode_text(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Ids [n, L] of which lengths [n] are valid -> unit-norm embeddings [n, D]."""
        return self.encode(lambda model: model.encode_text(tokens, lengths), "text")

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels [b, C, H, W], uint8 or floats in [0, 1] -> floats as the models want them."""
        first: TwoTower = self.models[0]  # type: ignore[assignment]
        return first.normalise(pixels)

    def encoders(self) -> Composed:
        """Return itself: it has no captioner."""
        return self


class WithHead(Composed):
    """A model behind the head through which an objective saw it."""

    def __init__(self, model: TwoTower, head: Head) -> None:
        super().__init__([model], head.width)
        self.head = head

    def join(self, parts: list[Tensor], side: str) -> Tensor:
        """Return what the head makes of the embedding, in float32 or float64 as in training."""
        with torch.autocast(parts[0].device.type, enabled=False):
            out: Tensor = self.head(parts[0], side)
        return out


class Stages(Composed):
    """The embeddings of several models side by side, so that the dot product is the mean of their cosines.

    Zhang et al., MCL, ECCV 2024, arXiv 2402.11816. The models see the same pixels and tokens.
    """

    def __init__(self, models: Sequence[TwoTower]) -> None:
        super().__init__(models, sum(model.config.embed for model in models))
        first = models[0].config
        for number, model in enumerate(models):
            for what in ("size", "channels", "mean", "std", "intensity", "resize", "resample", "array"):
                if getattr(model.config.image, what) != getattr(first.image, what):
                    raise UserError(f"stage {number} takes other images than stage 0: its image.{what} differs")
            if model.config.text.context != first.text.context or model.config.text.eos != first.text.eos:
                raise UserError(f"stage {number} reads other texts than stage 0: their contexts or tokenizers differ")

    def join(self, parts: list[Tensor], side: str) -> Tensor:
        """Return the embeddings in a row."""
        return torch.cat(parts, -1) / len(parts) ** 0.5

    def save(self, folder: str | Path) -> None:
        """Write each model's folder, stage-0 and so on, and what says that they belong together.

        The hashes tell the caches of an evaluation that a stage changed: they look at this folder's own files only.
        """
        path = Path(folder)
        hashes = []
        for number, model in enumerate(self.models):
            model.save(path / f"stage-{number}")  # type: ignore[operator]
            hashes.append(_hash(path / f"stage-{number}"))
        (path / STAGES).write_text(json.dumps({"sha256": hashes}, indent=2) + "\n")


def load(folder: str | Path) -> TwoTower | Stages:
    """Read a model folder of any kind that `TwoTower.load` reads, or one that `Stages.save` wrote."""
    path = Path(folder)
    if not (path / STAGES).is_file():
        return TwoTower.load(path)
    try:
        hashes = list(read_json(path / STAGES)["sha256"])
    except (KeyError, TypeError):
        raise UserError(f"{path / STAGES}: cannot be read; copy it again") from None
    if not hashes:
        raise UserError(f"{path / STAGES}: names no models; copy it again")
    folders = [path / f"stage-{number}" for number in range(len(hashes))]
    if changed := [str(folder) for folder, known in zip(folders, hashes) if _hash(folder) != known]:
        raise UserError(f"{changed[0]}: not what {STAGES} says; copy the whole folder again")
    return Stages([TwoTower.load(folder) for folder in folders]).eval()


def _hash(folder: Path) -> str:
    """Return the SHA-256 of a model's configuration and weights."""
    digest = hashlib.sha256()
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing; copy the whole folder again")
        digest.update((folder / name).read_bytes())
    for path in sorted((folder / pool.FOLDER).glob("*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def folded(model: TwoTower, head: Head) -> TwoTower | None:
    """Return the model whose projections contain a head that is linear; None where it is not, or has no place."""
    maps = {f"{name}_projection": head.matrix(side) for name, side in (("visual", "image"), ("text", "text"))}
    layers = {name: getattr(model, name) for name in maps}
    if any(m is None for m in maps.values()) or not all(isinstance(x, nn.Linear) for x in layers.values()):
        return None
    config = dataclasses.replace(model.config, embed=head.width, captioner=None, image_pool="mean")
    made = TwoTower(config, bias=model.logit_bias is not None)
    state = {**model.encoders().state_dict()}
    for name, m in maps.items():
        assert m is not None
        state[f"{name}.weight"] = (m.double() @ layers[name].weight.double()).to(layers[name].weight.dtype)
    made.load_state_dict(state)
    return made.eval()
