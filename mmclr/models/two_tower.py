"""The two towers with their projections and temperature: one module, one folder on disk.

The folder is a transformers CLIPModel folder as it stands (config.json, model.safetensors), plus the pixel
statistics in preprocessor_config.json and the tokenizer's files. With foreign towers it is of our own type.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr.config import ConfigError
from mmclr.models.captioning import decoder
from mmclr.models.captioning.decoder import Captioner
from mmclr.models.clip import arrays, scatter, towers
from mmclr.models.clip.arrays import ArrayTower
from mmclr.models.clip.scatter import ScatterTower
from mmclr.models.clip.towers import TextTower, VisionTower
from mmclr.models.config import ImageConfig, ModelConfig, TextConfig, check_whole
from mmclr.models.foreign import build
from mmclr.models.formats import find
from mmclr.models.formats.transformers import preprocessor, to_transformers
from mmclr.models.formats.weights import load_weights, read_weights, write_weights
from mmclr.models.pooling import pool
from mmclr.models.pooling.pool import ImagePool, in_slots
from mmclr.models.tower import Tower

__all__ = ["TwoTower", "load_weights", "read_weights", "with_tokenizer"]


class TwoTower(nn.Module):
    """Image and text encoders into one unit sphere, and the scale of their dot products."""

    def __init__(self, config: ModelConfig, bias: bool = False) -> None:
        """Draw random weights; `bias` adds the learnt logit bias that sigmoid losses ask for."""
        super().__init__()
        check_whole(config)
        self.config = config
        self.vision_model = _image_tower(config.image)
        self.text_model = _text_tower(config.text)
        self.visual_projection = _projection(config.image, config.embed, "image")
        self.text_projection = _projection(config.text, config.embed, "text")
        self.logit_scale = nn.Parameter(torch.tensor(math.log(config.scale)))
        self.logit_bias = nn.Parameter(torch.tensor(config.bias)) if bias else None
        self.captioner = Captioner(config) if config.captioner is not None else None
        self.image_pool = ImagePool(config.image_pool, config.embed)
        self.locked: list[nn.Module] = []  # parts that do not train: see `models.locking`

    def train(self, mode: bool = True) -> TwoTower:
        """Switch to training; locked parts stay in evaluation mode, so that nothing in them moves."""
        super().train(mode)
        for part in self.locked:
            part.eval()
        return self

    @property
    def scale(self) -> Tensor:
        """Inverse temperature, a scalar in float32, clamped to config.max_scale."""
        return self.logit_scale.float().exp().clamp(max=self.config.max_scale)

    def encode_image(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Normalised pixels [b, C, H, W] -> unit-norm embeddings [b, D] in float32."""
        return self.project_image(self.vision_model(pixels, keep))

    def project_image(self, features: Tensor) -> Tensor:
        """Features of the image tower [b, H] -> unit-norm embeddings [b, D] in float32."""
        return _unit(self.visual_projection(features))

    def encode_images(self, pixels: Tensor, counts: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return one unit-norm embedding [b, D] in float32 of each sample's images.

        Normalised pixels [n, 3, H, W] of all images, those of a sample one after the other; counts [b] of each, n in
        all. Where a sample has one image, its row is that of `encode_image`, to the bit.
        """
        if self.config.image_pool == "first":  # the others need not be seen
            at = counts.cumsum(0) - counts
            return self.encode_image(pixels[at], None if keep is None else keep[at])
        return self.pool(self.encode_image(pixels, keep), counts)

    def pool(self, images: Tensor, counts: Tensor) -> Tensor:
        """Unit-norm embeddings [n, D] of all images, counts [b] of which belong to each sample -> [b, D]."""
        if len(images) == len(counts) and self.config.image_pool != "attention":  # whose weights wait for a gradient
            return images
        return self._pooled(in_slots(images, counts, int(counts.max())), counts)

    def pool_others(self, first: Tensor, others: Tensor, counts: Tensor, most: int) -> Tensor:
        """Pool each sample's first image [b, D] with its others, of all samples [n, D]; each has counts [b] in all.

        `most` is the largest number of others that a sample may have.
        """
        return self._pooled(torch.cat([first[:, None], in_slots(others, counts - 1, most)], 1), counts)

    def _pooled(self, slots: Tensor, counts: Tensor) -> Tensor:
        with torch.autocast(slots.device.type, enabled=False):
            pooled: Tensor = self.image_pool(slots, counts)
        return pooled

    def encode_patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels [b, C, H, W] -> their embeddings [b, D], and each patch [b, P, D] of any length.

        A patch goes through the norm and the projection that the class token goes through. Our own tower only.
        """
        seen = self.visual_projection(self.vision_model.post_layernorm(self.vision_model.tokens(pixels)))  # type: ignore
        return _unit(seen[:, 0]), _wide(seen[:, 1:])

    def encode_text(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Ids [n, L] of which lengths [n] are valid -> unit-norm embeddings [n, D] in float32."""
        return _unit(self.text_projection(self.text_model(tokens, lengths)))

    def encode_pairs(
        self, pixels: Tensor, tokens: Tensor, lengths: Tensor, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return both embeddings, [b, D] and [n, D], and the captioner's states at all tokens but the last.

        The states are [n, L - 1, width], zeros behind a text's end; of n texts every n / b belong to an image.
        """
        assert self.captioner is not None, "the model was built without a captioner"
        seen = self.vision_model.tokens(pixels, keep)  # type: ignore[operator]
        read, layout = self.text_model.packed(tokens, lengths)  # type: ignore[operator]
        image = self.visual_projection(self.vision_model.post_layernorm(seen[:, 0]))  # type: ignore[operator]
        text = self.text_projection(layout.restore(read[layout.last]))
        layout, left = layout.shortened()
        states = self.captioner(read[left], layout, seen)
        return _unit(image), _unit(text), layout.unpack(states, tokens.shape[1] - 1)

    def words(self) -> Tensor:
        """Return the vectors [N, width] whose dot products with the captioner's states are the tokens' logits."""
        assert self.captioner is not None, "the model was built without a captioner"
        words: nn.Module = self.captioner.words or self.text_model.embeddings.token_embedding  # type: ignore
        return words()

    def normalise(self, pixels: Tensor, whole: float | None = None) -> Tensor:
        """Pixels [b, C, H, W] -> floats with the mean and standard deviation of each channel taken out.

        `whole` is the number of full intensity: by itself 255 of integers, 1 of floats.
        """
        dtype = self.logit_scale.dtype
        if self.config.image.array is not None:
            mean, std = (
                pixels.new_tensor(v, dtype=dtype)[:, None] for v in (self.config.image.mean, self.config.image.std)
            )
            return (pixels.to(dtype) - mean) / std
        whole = whole or (1 if pixels.is_floating_point() else 255)
        mean, std = (
            pixels.new_tensor(v, dtype=dtype).view(-1, 1, 1) * whole
            for v in (self.config.image.mean, self.config.image.std)
        )
        return (pixels.to(dtype) - mean) / std

    def encoders(self, image: bool = True, text: bool = True) -> TwoTower:
        """Return the model without its captioner, and without a tower if so asked: the same weights, not copies."""
        bare = copy.copy(self)
        left_out = ["captioner", *_IMAGE * (not image), *_TEXT * (not text)]
        bare._modules = {**self._modules, **dict.fromkeys(left_out)}
        bare.config = dataclasses.replace(self.config, captioner=None)
        return bare

    def save(self, folder: str | Path) -> None:
        """Write config.json, preprocessor_config.json and model.safetensors; captioner and pool have folders."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(json.dumps(to_transformers(self.config), indent=2))
        (path / "preprocessor_config.json").write_text(json.dumps(preprocessor(self.config.image), indent=2))
        state = self.state_dict()
        apart = decoder.only(state) | pool.only(state)
        write_weights({k: v for k, v in state.items() if k not in apart}, path / "model.safetensors")
        decoder.save(path, self.config, state)
        pool.save(path, self.config, state)

    @classmethod
    def load(cls, folder: str | Path) -> TwoTower:
        """Read a model folder: one that `save` wrote, a transformers CLIP or SigLIP folder, an open_clip folder."""
        config, weights = find.read(Path(folder))
        model = cls(config, bias="logit_bias" in weights)
        load_weights(model, weights, str(folder))
        return model.eval()


_IMAGE, _TEXT = ["vision_model", "visual_projection", "image_pool"], ["text_model", "text_projection"]


def _image_tower(c: ImageConfig) -> Tower:
    if c.foreign is not None:
        return build.image_tower(c)
    if c.array is not None:
        array_tower = ArrayTower(c)
        arrays.initialise_arrays(array_tower)
        return array_tower
    if c.scatter is not None:
        scatter_tower = ScatterTower(c)
        scatter.initialise_scatter(scatter_tower)
        return scatter_tower
    tower = VisionTower(c)
    towers.initialise_vision(tower)
    return tower


def _text_tower(c: TextConfig) -> Tower:
    if c.foreign is not None:
        return build.text_tower(c)
    tower = TextTower(c)
    towers.initialise_text(tower)
    return tower


def _projection(c: ImageConfig | TextConfig, embed: int, part: str) -> nn.Module:
    """Return the layer from a tower's feature to the shared space."""
    if c.foreign is not None and not c.foreign.projection:
        if c.width != embed:
            raise ConfigError(f"model.{part}.foreign.projection is false, so model.embed must be its width {c.width}")
        return nn.Identity()
    layer = nn.Linear(c.width, embed, bias=False)
    nn.init.normal_(layer.weight, std=c.width**-0.5)
    return layer


def _unit(x: Tensor) -> Tensor:
    return F.normalize(_wide(x), dim=-1)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def with_tokenizer(config: ModelConfig, vocab: int, bos: int, eos: int, pad: int) -> ModelConfig:
    """Return the config with the tokenizer's ids, and with its vocabulary where none is set (vocab 0)."""
    c = config.text
    if config.captioner is not None and bos < 0:
        raise ConfigError("tokenizer: its texts have no start token, from which a captioner would begin; use another")
    if c.vocab and vocab > c.vocab:
        raise ConfigError(
            f"tokenizer: it has {vocab} tokens and the text tower knows {c.vocab} (model.text.vocab); use the "
            f"tokenizer that the tower was trained with"
        )
    own = c.foreign.architecture if c.foreign is not None and c.foreign.pool == "pooler" else {}
    if own.get("model_type") == "clip_text_model":  # it looks for the token itself; 2 stands for the highest id
        pooled = own["vocab_size"] - 1 if own["eos_token_id"] == 2 else own["eos_token_id"]
        if pooled != eos:
            raise ConfigError(
                f"tokenizer: its end-of-text token is {eos}, and the text tower pools at {pooled}; use the tokenizer "
                f"that the tower was trained with, or model.text.foreign.pool: last"
            )
    text = dataclasses.replace(c, vocab=c.vocab or vocab, bos=bos, eos=eos, pad=pad)
    return dataclasses.replace(config, text=text)
