"""Arrays of numbers in place of images: [T, C] (time series, sensors), [N, C] (residues, nodes), rows [C] of a table.

A member is a .npy file of real numbers. Shorter arrays are padded behind their end with NaN, which the tower does not
look at; of longer ones a window is taken: anywhere in training, in evaluations the middle. Nothing is resampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from mmclr.data.pixels import array_augment
from mmclr.data.pixels.array_augment import ArrayAugment, Floats, Window
from mmclr.data.pixels.decode import MAX_PIXELS
from mmclr.data.pixels.medium import Arrays, Medium
from mmclr.data.pixels.npy import read_header, read_values
from mmclr.data.random import Words
from mmclr.data.samples.skipped import Fault

EDGES = "; edges of a graph are not read: give the features of its nodes [N, C], neighbours near each other"
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b7791f", "#c53030", "#0987a0", "#4a5568")
DRAWN = 12  # channels of an array that people are shown


class Values:
    """An array, [steps, channels], of which a file's numbers are not read before they are asked for."""

    def __init__(self, shape: tuple[int, int], what: str, data: bytes | NDArray[Any], header: Any = None) -> None:
        self.size, self.format = shape, what  # steps, channels
        self._data, self._header = data, header

    def read(self) -> Floats:
        """Return float32 [steps, channels]. Raises Fault where a number is none."""
        found = read_values(self._data, self._header) if isinstance(self._data, bytes) else self._data
        with np.errstate(over="ignore", invalid="ignore"):
            x = found.reshape(self.size).astype(np.float32)
        bad = np.argwhere(~np.isfinite(x))
        if len(bad):
            (step, channel), more = bad[0].tolist(), f" and {len(bad) - 1:,} more" if len(bad) > 1 else ""
            raise Fault(
                "bad_array", f"{x[step, channel]} at step {step}, channel {channel}{more}: fill such gaps first"
            )
        return x


class Array(Medium):
    """Views are float32 [T, C], NaN behind an array's end."""

    members = ("npy",)
    dtype = np.float32

    def __init__(
        self,
        kind: Arrays,
        mean: Sequence[float],
        std: Sequence[float],
        max_pixels: int = MAX_PIXELS,  # values of an array
        augments: Sequence[ArrayAugment] = (),  # that views are drawn with
    ) -> None:
        self.kind, self.size, self.shape = kind, kind.length, (kind.length, kind.channels)
        self.mean, self.std = np.array(mean, np.float32), np.array(std, np.float32)
        self.max_pixels, self.augments = max_pixels, tuple(augments)
        self.note = f"array {kind.channels} x {kind.length}"

    def open(self, data: bytes, beside: Mapping[str, bytes] | None = None) -> Values:
        """Read the header. Raises Fault where the array is none that the model could see."""
        header = read_header(data, self.max_pixels)
        return Values(self._fit(header.shape, header.dtype), f"npy {header.dtype}", data, header)

    def given(self, value: Any) -> Values:
        """Take an array or tensor of real numbers, or lists of them. Raises ValueError where the model sees no such."""
        array = value.numpy(force=True) if isinstance(value, Tensor) else np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"an array of {array.dtype}; give real numbers")
        try:
            return Values(self._fit(array.shape, array.dtype), f"array {array.dtype}", array)
        except Fault as fault:
            raise ValueError(fault.detail) from None

    def draw(self, how: ArrayAugment, sizes: NDArray[np.int64], keys: Words) -> list[Window]:
        """Draw windows, factors, noise and masks."""
        return array_augment.draw(how, sizes, keys, self.size)

    def decode(self, opened: Values, shrink: float = 1.0) -> Floats:
        """Return float32 [steps, channels]. Raises Fault."""
        return opened.read()

    def cut(self, whole: Floats, drawn: Window) -> Floats:
        """Return the view, float32 [T, C]."""
        steps = whole[drawn.start : drawn.start + drawn.steps]
        return self._padded(array_augment.changed(steps, drawn, self.mean, self.std))

    def plain(self, opened: Values) -> Floats:
        """Return the middle of too long an array, all of others, float32 [T, C]. Raises Fault."""
        start = max(0, (opened.size[0] - self.size) // 2)
        return self._padded(opened.read()[start : start + self.size])

    def bytes_of(self, whole: Floats) -> int:
        """Return its bytes."""
        return whole.nbytes

    def show(self, opened: Values, side: int) -> Image.Image:
        """Return a line for each channel over the steps. Raises Fault."""
        return drawing(opened.read(), side)

    def batched(self, rows: NDArray[Any]) -> Tensor:
        """Return views [..., T, C] as the model takes them: [..., C, T]."""
        return torch.from_numpy(rows).movedim(-1, -2)

    def _padded(self, x: Floats) -> Floats:
        if len(x) == self.size:
            return x
        out = np.full(self.shape, np.nan, np.float32)
        out[: len(x)] = x
        return out

    def _fit(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, int]:
        """Return steps and channels of an array that the model can see. Raises Fault."""
        channels, row = self.kind.channels, self.kind.length == 1
        found = shape
        if len(shape) == 1:
            found = (1, *shape) if row else (*shape, 1)
        asked = f"a row [{channels}]" if row else f"[time, {channels}]"
        if len(found) != 2 or (row and found[0] > 1):
            raise Fault("bad_array", f"an array {list(shape)}, and the model reads {asked}")
        if found[1] != channels:
            turned = "; turn it round" if found[0] == channels and not row else ""
            edges = EDGES if dtype.kind in "iu" and 2 in shape else ""
            raise Fault("bad_array", f"an array {list(shape)}, and the model reads {asked}{turned}{edges}")
        if not found[0]:
            raise Fault("bad_array", f"an array {list(shape)}: it has no steps")
        return found[0], found[1]


def open_any(data: bytes, most: int = MAX_PIXELS) -> Values:
    """Read the header of any array [T, C], [T] or [C] of at most `most` values. Raises Fault."""
    header = read_header(data, most)
    if len(header.shape) not in (1, 2) or 0 in header.shape:
        raise Fault("bad_array", f"an array {list(header.shape)}; [time, channels] or a row [channels] is read")
    steps, channels = (*header.shape, 1)[:2]
    return Values((steps, channels), f"npy {header.dtype}", data, header)


def drawing(x: Floats, side: int) -> Image.Image:
    """Return an RGB image, side x side / 2, of [steps, channels]: a line a channel, all on one scale."""
    wide, high = max(8, side), max(8, side // 2)
    out = Image.new("RGB", (wide, high), (255, 255, 255))
    pen = ImageDraw.Draw(out)
    for number, line in enumerate(lines(x, wide, high)):
        pen.line(line, fill=COLOURS[number % len(COLOURS)], width=1)
    return out


def lines(x: Floats, wide: int, high: int) -> list[list[tuple[float, float]]]:
    """Return the points of a line for each of the first channels of [steps, channels], in a box wide x high.

    A row is one line over its values. Of many steps the lowest and highest of each pixel are kept.
    """
    x = x.T if len(x) == 1 else x[:, :DRAWN]
    low, high_value = float(x.min()), float(x.max())
    span = high_value - low or 1.0
    every = max(1, len(x) // wide)
    parts = [x[i : i + every] for i in range(0, len(x), every)]
    made = []
    for channel in range(x.shape[1]):
        points = []
        for at, part in enumerate(parts):
            values = part[:, channel]
            ends = (values.min(), values.max()) if len(values) > 1 else (values[0],)
            across = (wide - 1) * (at / max(1, len(parts) - 1))
            points += [(across, (high - 1) * (1 - (float(value) - low) / span)) for value in ends]
        made.append(points if len(points) > 1 else points * 2)
    return made
