"""The configs of a model: its two towers, foreign ones in their place, and the captioner."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le
from pydantic import model_serializer, model_validator

from mmclr.config import ConfigError, config, nearest
from mmclr.models.foreign import libraries
from mmclr.models.presets import PRESETS, fill_in

Count = Annotated[int, Ge(1)]
Activation = Literal["gelu", "quick_gelu"]
Pool = Literal["mean", "attention", "first"]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training images
FILTERS = 2**28  # numbers that the filters of a scattering transform may have: 1 GiB
HALF, QUARTER = 0.5, 0.25  # mean and std of a channel that nobody has measured


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
            told = f"library: there is no {self.library!r}{nearest(self.library, known).rstrip('?')}"
            raise ValueError(f"{told}; where a plugin brings it, name the plugin: --plugins own.py")
        if self.source and not self.architecture and (library not in known or not name):
            forms = " or ".join(f"{known_one}:FOLDER_OR_NAME" for known_one in known)
            raise ValueError(f"source: {self.source!r} says no library; write {forms}")

    @property
    def open(self) -> bool:
        """Whether what it is stands in a folder that has not been read yet."""
        return bool(self.source) and not self.architecture


@config
class ArrayConfig:
    """Arrays in place of images: [T, C] (time series, sensors), [N, C] (residues, nodes), or rows [C] of a table."""

    channels: Count  # C, values of a step; or of a row
    length: Count  # steps that the model sees; 1: rows, each value of which is a token
    patch: Count = 1  # steps of a token

    def __post_init__(self) -> None:
        if self.length % self.patch:
            raise ValueError(f"length {self.length} is not a multiple of patch {self.patch}: choose one that is")

    @property
    def row(self) -> bool:
        """Whether it is rows of a table."""
        return self.length == 1

    @property
    def tokens(self) -> int:
        """Number of tokens of an array of this length, the class token apart."""
        return self.channels if self.row else self.length // self.patch


@config
class ScatterConfig:
    """A fixed wavelet scattering transform and residual blocks behind it: see `models.clip.scatter`."""

    J: Annotated[int, Ge(1), Le(8)] = 2  # scales: the coefficients of an image stand 2^J pixels apart
    L: Annotated[int, Ge(1), Le(64)] = 16  # angles
    blocks: Count = 30  # residual blocks of two convolutions each, of width / 16 channels

    @property
    def paths(self) -> int:
        """Number of coefficients of each channel of an image, at each place."""
        return 1 + self.L * self.J + self.L**2 * self.J * (self.J - 1) // 2


@config
class ImageConfig:
    """A vision transformer."""

    size: Count = 224  # pixels a side
    patch: Count = 32  # pixels a side
    channels: Annotated[int, Ge(1), Le(64)] = 3  # C, bands of an image: 1 grey, 3 RGB, or as many as a sensor has
    width: Count = 768
    layers: Count = 12
    heads: Count = 12
    mlp: Count = 3072  # hidden units
    activation: Activation = "gelu"
    eps: float = 1e-5  # of the layer norms
    mean: tuple[float, ...] = (
        MEAN  # [C], subtracted from pixels in [0, 1]; by default CLIP's, with C not 3 0.5, of arrays 0
    )
    std: tuple[float, ...] = STD  # [C], what they are divided by then; by default CLIP's, 0.25, of arrays 1
    intensity: dict[str, Any] | None = None  # how stored numbers become [0, 1]: a training's data.intensity
    resize: Literal["crop", "squash"] = "crop"  # evaluation: the short side to size and the middle; or both sides
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    foreign: Foreign | None = None  # a tower of another library, instead of width to eps
    array: ArrayConfig | None = None  # arrays in place of images, instead of size, patch, channels, resize, resample
    scatter: ScatterConfig | None = None  # wavelets and convolutions in place of patch, layers, heads, mlp, .. eps

    def __post_init__(self) -> None:
        if self.scatter is not None and (self.foreign or self.array):
            raise ValueError("scatter: it is a tower of its own; leave out foreign and array, or scatter")
        if self.array is not None and self.foreign is not None:
            raise ValueError("array: it is for our own tower; leave out foreign, or array")
        channels = self.channels if self.array is None else self.array.channels
        unknown = (0.0, 1.0) if self.array is not None else (HALF, QUARTER)
        for name, known, value in (("mean", MEAN, unknown[0]), ("std", STD, unknown[1])):
            given = tuple(getattr(self, name))
            if given == known and (self.array is not None or channels != 3):
                object.__setattr__(self, name, (value,) * channels)
            elif len(given) != channels:
                raise ValueError(
                    f"{name}: {len(given)} numbers for {channels} channels; give one for each, or leave it out "
                    f"(`mmclr data stats --write` measures them)"
                )
        if min(self.std) <= 0:
            raise ValueError("std: a channel is divided by it, so each is above 0")

    @property
    def clip(self) -> bool:
        """Whether it is a tower of CLIP's own kind, which other libraries have too."""
        return self.foreign is None and self.array is None and self.scatter is None

    @property
    def patches(self) -> int:
        """Number of tokens of an image or array, the class token apart."""
        return self.array.tokens if self.array is not None else (self.size // self.patch) ** 2

    @property
    def deep(self) -> bool:
        """Whether its pixels are more than RGB of 8 bits: float32 in [0, 1] out of stored numbers."""
        return self.array is None and (self.channels != 3 or self.intensity is not None)


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
    """A decoder that writes captions: blocks on top of the text tower, of its width, which also look at the image."""

    layers: Count = 6
    queries: Annotated[int, Ge(0)] = 0  # learnt vectors that take from the image what the decoder sees; 0: its tokens
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
    image_pool: Pool = "mean"  # several images of a sample to one embedding: see `models.pooling.pool.ImagePool`
    captioner: CaptionerConfig | None = None  # {} for one of six layers

    written: ClassVar[dict[str, Any]] = {}  # of a config that leaves something to folders: what it says itself

    def __post_init__(self) -> None:
        if self.captioner is not None and (self.image.foreign or self.text.foreign):
            raise ValueError("captioner: it reads the tokens of our own towers only; leave out captioner, or foreign")
        if self.captioner is not None and self.image.array:
            raise ValueError("captioner: it writes of images, and image.array takes arrays; leave out one of them")
        if self.captioner is not None and self.image.scatter:
            raise ValueError("captioner: it reads tokens of an image, and image.scatter gives none; leave out one")
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
    if image.scatter is not None:
        _check_scatter(image, image.scatter)
    elif image.clip and image.size % image.patch:
        raise ValueError(f"image.size {image.size} is not a multiple of image.patch {image.patch}: choose one that is")
    for part, c in (("image", image), ("text", text)):
        if c.foreign is None and not (c is image and image.scatter) and c.width % c.heads:
            raise ValueError(f"{part}.width {c.width} is not a multiple of {part}.heads {c.heads}: choose one that is")


def _check_scatter(image: ImageConfig, s: ScatterConfig) -> None:
    """Raise ValueError where images do not fit a scattering transform, or its blocks the width."""
    cell = 2**s.J
    if image.size % cell:
        raise ValueError(f"image.size {image.size} is not a multiple of 2^J = {cell} (image.scatter.J): choose one")
    if image.size < 4 * cell:
        raise ValueError(
            f"image.scatter.J {s.J} leaves {image.size // cell} x {image.size // cell} places of images of "
            f"{image.size} pixels, and the tower wants 4 x 4 or more: a smaller J, or a larger image.size"
        )
    if image.width % 16:
        raise ValueError(
            f"image.width {image.width} is not a multiple of 16, and image.scatter gives width / 16 channels at 4 x 4 "
            f"places: choose one that is"
        )
    if (held := s.J * s.L * (image.size + 2 * cell) ** 2) > FILTERS:
        raise ValueError(f"image.scatter: its filters would be {held:,} numbers; smaller images (image.size), or L")


def check_whole(config: ModelConfig) -> None:
    """Refuse a config whose token ids were never set, or that leaves something to a folder that nobody has read."""
    if config.open is not None:
        raise ConfigError(
            f"{config.open} names a folder that has not been read; pass the config through models.resolve"
        )
    if config.text.vocab < 1:
        raise ConfigError("model.text.vocab is 0: set it, or build the model with its tokenizer")
