"""A trained model for people who write Python: images and strings in, unit vectors out.

import mmclr

model = mmclr.load("runs/mine")
images = model.encode_image(["cat.jpg", "dog.png"])          # [2, D]
texts = model.encode_text(["a photo of a cat", "a dog"])     # [2, D]
print(model.similarity(images, texts))                       # [2, 2], cosines
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mmclr.data.pixels.choose import choose
from mmclr.data.pixels.medium import Medium
from mmclr.data.samples.reader import normalise
from mmclr.data.samples.skipped import Fault
from mmclr.data.samples.text import Tokenizer
from mmclr.errors import UserError
from mmclr.load_model import open_model
from mmclr.models.captioning.decoding import Decoding
from mmclr.models.captioning.generate import Writer
from mmclr.models.ensemble import Composed
from mmclr.models.two_tower import TwoTower

Array = NDArray[np.float32]


class Prepared(NamedTuple):
    """An image at the model's size, as `Encoder.prepare` makes it."""

    pixels: NDArray[Any]


AnyArray = str | Path | NDArray[Any] | Tensor | Prepared
AnyImage = str | Path | Image.Image | NDArray[Any] | Tensor | Prepared


class Encoder:
    """Both encoders of a model, with its tokenizer and its evaluation transform."""

    def __init__(self, model: TwoTower | Composed, tokenizer: Tokenizer, device: str = "auto") -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, source: str | Path, *, weights: str = "auto", device: str = "auto", head: str = "") -> Encoder:
        """Open a run, checkpoint, export, transformers CLIP or SigLIP folder, open_clip folder, or a name.

        Names are `owner/name` on the Hugging Face Hub and `open_clip:ARCHITECTURE/TAG`. Of a checkpoint, `weights`
        takes "average", "model", or "auto": averaged if the run kept an average. `device` is a torch device, or
        "auto": a GPU if there is one. `head` names an objective of a run, behind whose head the model then is, with the
        weights of the last step. Raises UserError when there is no such model, or it cannot be read.
        """
        found = open_model(source, weights, head)
        return cls(found.model, Tokenizer.load(found.folder, found.model.config.text.context), device)

    @cached_property
    def medium(self) -> Medium:
        """The medium of this model's images."""
        return choose(self.model.config.image)

    def prepare(self, data: bytes, beside: Mapping[str, bytes] | None = None) -> Prepared:
        """Decode a file's bytes to the model's size, in any thread; `beside` are the sample's members. Raises Fault."""
        return Prepared(self.medium.plain(self.medium.open(data, beside)))

    @property
    def scale(self) -> float:
        """Inverse temperature: softmax(scale * similarity) are the probabilities that training aims at."""
        return float(self.model.scale)

    @property
    def bias(self) -> float:
        """The bias that a model with a sigmoid loss adds to scale * similarity before the sigmoid; 0 without one."""
        return 0.0 if self.model.logit_bias is None else float(self.model.logit_bias)

    @overload
    def encode_image(
        self, images: AnyImage | Sequence[AnyImage], *, batch: int = ..., progress: bool = ...
    ) -> Array: ...
    @overload
    def encode_image(
        self, images: AnyImage | Sequence[AnyImage], *, batch: int = ..., progress: bool = ..., output: Literal["torch"]
    ) -> Tensor: ...
    def encode_image(
        self, images: Any, *, batch: int = 64, progress: bool = False, output: str = "numpy"
    ) -> Array | Tensor:
        """Return unit-norm embeddings [n, D] in float32.

        An image is a path, a PIL image, an array or tensor of uint8 ([H, W, 3], [3, H, W], or [H, W] for grey), or what
        `prepare` made. To a model of other channels, or with an intensity, it is a path or an array of the numbers as
        they are stored, of any type: [C, H, W], [H, W, C], or [H, W] for grey; the model's intensity says what is 0 and
        1. A float tensor (of torch) [n, C, size, size] is taken as pixels that are already normalised. `output="torch"`
        gives a tensor on the CPU. Raises UserError with the number of an image that cannot be read.
        """
        self._refuse_arrays("encode_image")
        if isinstance(images, Tensor) and images.is_floating_point():
            several: Any = images if images.ndim == 4 else images[None]
            parts: Any = several.split(batch)
        else:
            several = _as_list(images)
            parts = (self._pixels(several, i, batch) for i in range(0, len(several), batch))
        return _as(self._run(self.model.encode_image, parts, len(several), progress), output)

    @overload
    def encode_images(
        self, items: Sequence[Sequence[AnyImage]], *, batch: int = ..., progress: bool = ...
    ) -> Array: ...
    @overload
    def encode_images(
        self, items: Sequence[Sequence[AnyImage]], *, batch: int = ..., progress: bool = ..., output: Literal["torch"]
    ) -> Tensor: ...
    def encode_images(
        self, items: Any, *, batch: int = 16, progress: bool = False, output: str = "numpy"
    ) -> Array | Tensor:
        """Return one unit-norm embedding of each item [n, D] in float32, of all its images together.

        An item is a list of at least one image as of `encode_image`; `batch` items go through the model at a time. How
        they become one is the model's `image_pool`: mean, attention or first. Raises UserError with the number of an
        item without an image, or of an image that cannot be read.
        """
        self._refuse_arrays("encode_images")
        items = [_as_list(item) for item in items]
        for number, item in enumerate(items):
            if not len(item):
                raise UserError(f"item {number} has no image; leave it out, or give it one")
        parts = (self._items(items, start, batch) for start in range(0, len(items), batch))
        return _as(self._run(self.model.encode_images, parts, len(items), progress), output)

    def _items(self, items: Sequence[Sequence[AnyImage]], start: int, count: int) -> tuple[Tensor, Tensor]:
        """Return the pixels of all images of some items, and how many each has."""
        some = items[start : start + count]
        pixels = []
        for number, item in enumerate(some, start):
            try:
                pixels.append(self._pixels(item, 0, len(item)))
            except UserError as error:
                raise UserError(f"item {number}, {error}") from None
        return torch.cat(pixels), torch.tensor([len(item) for item in some])

    @overload
    def encode_array(
        self, arrays: AnyArray | Sequence[AnyArray], *, batch: int = ..., progress: bool = ...
    ) -> Array: ...
    @overload
    def encode_array(
        self, arrays: AnyArray | Sequence[AnyArray], *, batch: int = ..., progress: bool = ..., output: Literal["torch"]
    ) -> Tensor: ...
    def encode_array(
        self, arrays: Any, *, batch: int = 64, progress: bool = False, output: str = "numpy"
    ) -> Array | Tensor:
        """Return unit-norm embeddings [n, D] in float32 of arrays, as a model with `model.image.array` reads them.

        An array is the path of a .npy file, or numbers [T, C] (of one channel also [T]; a row [C]), as they were
        measured: the model takes mean and standard deviation out. Of too long a one the middle is seen. All of one
        length may come as one array [n, T, C], rows as [n, C]. `output="torch"` gives a tensor on the CPU. Raises
        UserError with the number of an array that cannot be read, and for a model of images.
        """
        own = self.model.config.image.array
        if own is None:
            raise UserError("encode_array: this model takes images, and no arrays; use encode_image")
        alone = isinstance(arrays, (str, Path, Prepared)) or getattr(arrays, "ndim", 9) <= (1 if own.row else 2)
        several = [arrays] if alone else list(arrays)
        parts = (self._pixels(several, i, batch) for i in range(0, len(several), batch))
        return _as(self._run(self.model.encode_image, parts, len(several), progress), output)

    @overload
    def encode_text(self, texts: str | Sequence[str], *, batch: int = ..., progress: bool = ...) -> Array: ...
    @overload
    def encode_text(
        self, texts: str | Sequence[str], *, batch: int = ..., progress: bool = ..., output: Literal["torch"]
    ) -> Tensor: ...
    def encode_text(
        self, texts: Any, *, batch: int = 256, progress: bool = False, output: str = "numpy"
    ) -> Array | Tensor:
        """Return unit-norm embeddings [n, D] in float32; texts longer than the model's context are cut."""
        ids = self.tokenizer.encode([texts] if isinstance(texts, str) else list(texts))
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # texts of like length go together
        numbers = [order[start : start + batch] for start in range(0, len(ids), batch)]
        parts = (self.tokenizer.pad([ids[i] for i in some]) for some in numbers)
        rows = self._run(self.model.encode_text, parts, len(ids), progress)
        return _as(torch.empty_like(rows).index_copy_(0, torch.tensor(order, dtype=torch.long), rows), output)

    @property
    def encode_seen(self) -> Callable[..., Any]:
        """`encode_image`, or `encode_array` of a model that takes arrays."""
        return self.encode_image if self.model.config.image.array is None else self.encode_array

    def similarity(self, images: Any, texts: Any) -> Array:
        """Return the cosines [n, m] of images and texts: embeddings are taken as they are, the rest is encoded.

        Rows of numbers [n, D] are embeddings: arrays, of a model that takes such, come in a list.
        """
        x = images if _is_embedding(images) else self.encode_seen(images)
        y = texts if _is_embedding(texts) else self.encode_text(texts)
        return np.asarray(x, np.float32) @ np.asarray(y, np.float32).T

    def caption(self, images: Any, how: Decoding = Decoding(), *, batch: int = 64, progress: bool = False) -> list[str]:  # noqa: B008
        """Return a caption of each image, as a model with a captioner writes it; images as in `encode_image`.

        `how` chooses the likeliest tokens, beams or draws; the seed of the i-th batch's draws is how.seed + i. Raises
        UserError for a model without a captioner.
        """
        several, written = _as_list(images), list[str]()
        parts = (self._pixels(several, i, batch) for i in range(0, len(several), batch))
        for i, part in enumerate(_shown(parts, len(several), progress)):
            rows = self._writer(part.to(self.device), replace(how, seed=how.seed + i))
            written += map(self.tokenizer.decode, rows)
        return written

    @cached_property
    def _writer(self) -> Writer:
        if not isinstance(self.model, TwoTower):
            raise UserError("models side by side, or one behind a head, write no captions; load a model alone")
        return Writer(self.model)

    def _refuse_arrays(self, what: str) -> None:
        if self.model.config.image.array is not None:
            raise UserError(f"{what}: this model takes arrays in place of images; use encode_array")

    def _pixels(self, images: Sequence[AnyImage], start: int, count: int) -> Tensor:
        c = self.model.config.image
        numbers = range(start, min(start + count, len(images)))
        what = "image" if c.array is None else "array"
        made = np.stack([_read(self.medium, images[i], f"{what} {i}") for i in numbers])
        return normalise(self.medium.batched(made), c.mean, c.std, axes=len(self.medium.shape) - 1)

    @torch.inference_mode()
    def _run(self, encode: Callable[..., Tensor], parts: Any, count: int, progress: bool) -> Tensor:
        """Return the rows of all parts, one after the other, on the CPU."""
        rows = [torch.empty(0, self.model.config.embed)]
        for part in _shown(parts, count, progress):
            inputs = part if isinstance(part, tuple) else (part,)
            rows.append(encode(*(x.to(self.device) for x in inputs)).float().cpu())
        return torch.cat(rows)


def _read(medium: Medium, image: AnyImage, called: str) -> NDArray[Any]:
    """Return any kind of image, or of array, at the model's size."""
    try:
        if isinstance(image, Prepared):
            return image.pixels
        if isinstance(image, (str, Path)):
            return medium.plain(medium.file(Path(image)))
        return medium.plain(medium.given(image))
    except Fault as fault:
        where = f" ({image})" if isinstance(image, (str, Path)) else ""
        raise UserError(f"{called}{where}: {fault.detail}") from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{called}: {error}") from None


def _as_list(images: Any) -> Sequence[AnyImage]:
    """Return one image as a list of one."""
    single = isinstance(images, (str, Path, Image.Image, Prepared)) or (
        isinstance(images, (np.ndarray, Tensor)) and images.ndim < 4
    )
    return [images] if single else list(images)


def _is_embedding(value: Any) -> bool:
    """Whether this is rows of numbers and not something to encode."""
    if isinstance(value, Tensor):
        return value.ndim == 2 and value.is_floating_point()
    return isinstance(value, np.ndarray) and value.ndim == 2 and np.issubdtype(value.dtype, np.floating)


def _as(rows: Tensor, output: str) -> Array | Tensor:
    if output not in ("numpy", "torch"):
        raise UserError(f"output: {output!r} is neither numpy nor torch")
    return rows if output == "torch" else rows.numpy()


def _shown(parts: Any, count: int, progress: bool) -> Iterator[Any]:
    """Yield the parts, with a bar on the terminal if asked for."""
    if not progress:
        yield from parts
        return
    from rich.progress import Progress

    with Progress(transient=True) as bars:
        bar = bars.add_task("encoding", total=count)
        for part in parts:
            yield part
            bars.advance(bar, len(part[-1]) if isinstance(part, tuple) else len(part))
