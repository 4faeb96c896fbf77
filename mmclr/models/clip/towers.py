"""Our towers: exactly the architecture and parameter names of transformers' CLIPModel, so export is a copy.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021,
arXiv 2103.00020.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from pydantic import model_serializer, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr.config import ConfigError, config, nearest
from mmclr.models.clip.blocks import Block, Encoder, Packed
from mmclr.models.foreign import libraries
from mmclr.models.presets import PRESETS, fill_in
from mmclr.models.tower import Tower

Count = Annotated[int, Ge(1)]
Activation = Literal["gelu", "quick_gelu"]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training pictures


@config
class Foreign:
    """A tower of another library in place of ours; `models.resolve` fills in what is not written."""

    source: str = ""  # transformers:FOLDER_OR_NAME, or open_clip:FOLDER_OR_NAME
    trained: bool = True  # start from the weights there; false: from random ones
    pool: Literal["", "cls", "mean", "eos", "last", "pooler"] = ""  # tokens to one feature; open_clip knows its own
    projection: bool = True  # a linear layer from width to embed; false: the feature is the embedding
    padding: Literal["mask", "context"] = "mask"  # texts: padding is masked; or all have `context` tokens, none masked
    library: str = "transformers"  # as `source` says
    architecture: dict[str, Any] = dataclasses.field(default_factory=dict)  # the library's own config of the tower

    def __post_init__(self) -> None:
        library, _, name = self.source.partition(":")
        known = libraries.names()
        if self.library not in known:
            raise ValueError(f"library: there is no {self.library!r}{nearest(self.library, known)}")
        if self.source and not self.architecture and (library not in known or not name):
            forms = " or ".join(f"{known_one}:FOLDER_OR_NAME" for known_one in known)
            raise ValueError(f"source: {self.source!r} says no library; write {forms}")

    @property
    def open(self) -> bool:
        """Whether what it is stands in a folder that has not been read yet."""
        return bool(self.source) and not self.architecture


@config
class ImageConfig:
    """A vision transformer."""

    size: Count = 224  # pixels a side
    patch: Count = 32  # pixels a side
    width: Count = 768
    layers: Count = 12
    heads: Count = 12
    mlp: Count = 3072  # hidden units
    activation: Activation = "gelu"
    eps: float = 1e-5  # of the layer norms
    mean: tuple[float, float, float] = MEAN  # subtracted from pixels in [0, 1]
    std: tuple[float, float, float] = STD
    resize: Literal["crop", "squash"] = "crop"  # evaluation: the short side to size and the middle; or both sides
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    foreign: Foreign | None = None  # instead of the above but size, mean, std, resize, resample


@config
class TextConfig:
    """A causal text transformer, pooled at the end-of-text token."""

    context: Count = 77  # tokens, with start and end
    width: Count = 512
    layers: Count = 12
    heads: Count = 8
    mlp: Count = 2048  # hidden units
    activation: Activation = "gelu"
    eps: float = 1e-5  # of the layer norms
    vocab: int = 0  # tokens; 0: as many as the tokenizer has
    bos: int = 0  # token ids; set from the tokenizer when vocab is 0
    eos: int = 0
    pad: int = 0
    foreign: Foreign | None = None  # instead of the above but context and token ids


@config
class CaptionerConfig:
    """A decoder that writes captions: blocks on top of the text tower, of its width, which also look at the picture."""

    layers: Count = 6
    queries: Annotated[int, Ge(0)] = 0  # learnt vectors that take from the picture what the decoder sees; 0: its tokens
    tied: bool = True  # tokens are told by the text tower's own embedding of them; false: by one of the decoder's own


@config
class ModelConfig:
    """Both towers. A preset fills in what is not written."""

    preset: str | None = None  # a name in PRESETS, or a model folder or name whose architecture to take
    embed: Count = 512  # D, width of the shared embedding
    image: ImageConfig
    text: TextConfig
    scale: Annotated[float, Gt(0)] = 1 / 0.07  # inverse temperature at the start
    bias: float = -10.0  # logit bias at the start, where an objective asks for one
    max_scale: Annotated[float, Gt(0)] = 100.0  # the learnt scale never passes it
    captioner: CaptionerConfig | None = None  # {} for one of six layers

    written: ClassVar[dict[str, Any]] = {}  # of a config that leaves something to folders: what it says itself

    def __post_init__(self) -> None:
        if self.captioner is not None and (self.image.foreign or self.text.foreign):
            raise ValueError("captioner: it reads the tokens of our own towers only; leave out captioner, or foreign")
        if self.preset is None or self.preset in PRESETS:
            _check_sizes(self.image, self.text)

    @property
    def open(self) -> str | None:
        """The key of what stands in a folder that has not been read yet: see `models.resolve`."""
        if self.preset is not None and self.preset not in PRESETS:
            return "model.preset"
        parts = {"image": self.image.foreign, "text": self.text.foreign}
        return next((f"model.{part}.foreign" for part, own in parts.items() if own is not None and own.open), None)

    @model_validator(mode="wrap")
    @classmethod
    def _fill_in(cls, tree: Any, make: Any) -> Any:
        if not isinstance(tree, dict):
            return make(tree)
        filled = fill_in(tree)
        config = make(filled)
        if config.open is not None:
            object.__setattr__(config, "written", filled)
        return config

    @model_serializer(mode="wrap")
    def _tree(self, make: Any) -> Any:
        return self.written or make(self)


def _check_sizes(image: ImageConfig, text: TextConfig) -> None:
    """Raise ValueError where the sizes of our own towers do not fit together."""
    if image.foreign is None and image.size % image.patch:
        raise ValueError(f"image.size {image.size} is not a multiple of image.patch {image.patch}: choose one that is")
    for part, c in (("image", image), ("text", text)):
        if c.foreign is None and c.width % c.heads:
            raise ValueError(f"{part}.width {c.width} is not a multiple of {part}.heads {c.heads}: choose one that is")


class Patches(nn.Conv2d):
    """A convolution whose stride is its size: one matmul over patches, and faster as such."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [b, 3, H, W] -> [b, P, width]."""
        size = self.kernel_size[0]
        grid = pixels.unfold(2, size, size).unfold(3, size, size)
        return F.linear(grid.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2), self.weight.flatten(1))


class Positions(nn.Embedding):
    """One vector per place; all of them are read at once."""

    def forward(self) -> Tensor:  # type: ignore[override]
        """Return [places, width]."""
        return self.weight


class VisionEmbeddings(nn.Module):
    """Patches, a class token first, and learnt positions.

    Each weight is read in the forward of the module that has it, which is where ZeRO-3 puts it together.
    """

    def __init__(self, c: ImageConfig) -> None:
        super().__init__()
        self.patch_embedding = Patches(3, c.width, c.patch, c.patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(c.width))
        self.position_embedding = Positions((c.size // c.patch) ** 2 + 1, c.width)

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Pixels [b, 3, H, W] -> [b, 1 + P, width]; of the P patches only those in keep [b, p] if given."""
        positions = self.position_embedding()
        x = self.patch_embedding(pixels) + positions[1:]
        if keep is not None:
            x = x.gather(1, keep[..., None].expand(-1, -1, x.shape[-1]))
        first = (self.class_embedding + positions[0]).expand(x.shape[0], 1, -1)
        return torch.cat([first.to(x.dtype), x], 1)


class VisionTower(Tower):
    """transformers' CLIPVisionTransformer (its name for the first norm is misspelt there too)."""

    part = "image"

    def __init__(self, c: ImageConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(c)
        self.pre_layrnorm = nn.LayerNorm(c.width, c.eps)
        self.encoder = Encoder(c.width, c.layers, c.heads, c.mlp, c.activation, c.eps)
        self.post_layernorm = nn.LayerNorm(c.width, c.eps)

    def blocks(self) -> Sequence[Block]:
        """Return the encoder's blocks."""
        return self.encoder.layers

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Pixels [b, 3, H, W] -> the class token's feature [b, width]."""
        return self.post_layernorm(self.encoder.pooled(self.pre_layrnorm(self.embeddings(pixels, keep))))

    def tokens(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Pixels [b, 3, H, W] -> all tokens after the last block [b, 1 + P, width], the class token first."""
        return self.encoder(self.pre_layrnorm(self.embeddings(pixels, keep)))


class Words(nn.Embedding):
    """One vector per token of the vocabulary."""

    def forward(self, ids: Tensor | None = None) -> Tensor:
        """Ids [...] -> [..., width]; without ids all vectors [N, width]."""
        return self.weight if ids is None else super().forward(ids)


class TextEmbeddings(nn.Module):
    """Tokens and learnt positions."""

    def __init__(self, c: TextConfig) -> None:
        super().__init__()
        self.token_embedding = Words(c.vocab, c.width)
        self.position_embedding = nn.Embedding(c.context, c.width)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Ids [N] at positions [N] -> [N, width]."""
        return self.token_embedding(ids) + self.position_embedding(positions)


class TextTower(Tower):
    """transformers' CLIPTextTransformer. Causal and pooled at EOS, so padding can be left out exactly."""

    part = "text"

    def __init__(self, c: TextConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(c)
        self.encoder = Encoder(c.width, c.layers, c.heads, c.mlp, c.activation, c.eps)
        self.final_layer_norm = nn.LayerNorm(c.width, c.eps)

    def blocks(self) -> Sequence[Block]:
        """Return the encoder's blocks."""
        return self.encoder.layers

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Ids [n, L] of which the first lengths [n] are valid -> the feature at the last valid one [n, width]."""
        layout, ids, positions = Packed.pack(tokens, lengths)
        pooled = self.encoder.pooled(self.embeddings(ids, positions), layout)
        return self.final_layer_norm(layout.restore(pooled))

    def tokens(self, tokens: Tensor) -> Tensor:
        """Ids [n, L] -> all tokens' features [n, L, width]; what lies behind a row's end is to be ignored."""
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        return self.final_layer_norm(self.encoder(self.embeddings(tokens, positions), causal=True))

    def packed(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Packed]:
        """Ids [n, L] of which the first lengths [n] are valid -> the features of these alone [N, width]."""
        layout, ids, positions = Packed.pack(tokens, lengths)
        return self.final_layer_norm(self.encoder(self.embeddings(ids, positions), layout=layout)), layout


def initialise_vision(tower: VisionTower) -> None:
    """Draw all weights as CLIP does: normal, with the standard deviations of its released code."""
    embeddings = tower.embeddings
    width = embeddings.class_embedding.numel()
    for weight in (embeddings.class_embedding, embeddings.position_embedding.weight):
        nn.init.normal_(weight, std=width**-0.5)
    nn.init.normal_(embeddings.patch_embedding.weight, std=embeddings.patch_embedding.weight[0].numel() ** -0.5)
    initialise_blocks(tower.encoder, 2 * len(tower.encoder.layers))


def initialise_text(tower: TextTower) -> None:
    """Draw all weights as CLIP does."""
    nn.init.normal_(tower.embeddings.token_embedding.weight, std=0.02)
    nn.init.normal_(tower.embeddings.position_embedding.weight, std=0.01)
    initialise_blocks(tower.encoder, 2 * len(tower.encoder.layers))


def initialise_blocks(module: nn.Module, branches: int) -> None:
    """Draw the linear layers of blocks that add up `branches` residual branches, which shrink with their number."""
    depth = branches**-0.5
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        width = layer.in_features
        std = {"out_proj": depth * width**-0.5, "fc1": (2 * width) ** -0.5, "fc2": depth * layer.out_features**-0.5}
        nn.init.normal_(layer.weight, std=std.get(name.rsplit(".", 1)[-1], width**-0.5))
        nn.init.zeros_(layer.bias)


def check_whole(config: ModelConfig) -> None:
    """Refuse a config whose token ids were never set, or that leaves something to a folder that nobody has read."""
    if config.open is not None:
        raise ConfigError(
            f"{config.open} names a folder that has not been read; pass the config through models.resolve"
        )
    if config.text.vocab < 1:
        raise ConfigError("model.text.vocab is 0: set it, or build the model with its tokenizer")
