"""The header of a .npy member, read before any memory is taken for its values. Nothing in it is ever unpickled."""

from __future__ import annotations

import io
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mmclr.data.samples.skipped import Fault

MAGIC = b"\x93NUMPY"
HEADER = 10_000  # characters of a header, which is a literal of Python: no array of numbers needs as many
READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class Header(NamedTuple):
    """The header of a .npy file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool  # whether the first index runs fastest
    offset: int  # of the values


def read_header(data: bytes, most: int) -> Header:
    """Return the header of an array of real numbers that is whole and has at most `most` values. Raises Fault."""
    if not data.startswith(MAGIC):
        what = f"{len(data)} bytes that begin with {data[:8]!r}" if data else "the member is empty"
        npz = "; of an .npz take one array out" if data.startswith(b"PK") else ""
        raise Fault("bad_array", f"not a .npy file: {what}{npz}")
    file = io.BytesIO(data)
    try:
        version = npy.read_magic(file)
        if version not in READERS:
            raise ValueError(f"version {version[0]}.{version[1]} of the format")
        shape, fortran, dtype = READERS[version](file, max_header_size=HEADER)
    except Exception as error:  # whatever a literal of a stranger's leads to
        raise Fault("bad_array", f"its header cannot be read: {error or type(error).__name__}"[:200]) from error
    check_dtype(dtype)
    values = math.prod(shape)
    if values > most:
        raise Fault("too_many_pixels", f"an array {list(shape)} of {values:,} values is more than {most:,}")
    left = len(data) - file.tell() - values * dtype.itemsize
    if left:
        amount = f"{-left:,} bytes are missing" if left < 0 else f"{left:,} bytes too many"
        raise Fault("bad_array", f"{list(shape)} of {dtype} in its header, and {amount}")
    return Header(tuple(shape), dtype, fortran, file.tell())


def read_values(data: bytes, header: Header) -> NDArray[Any]:
    """Return the array of a file whose header has been read; a view of its bytes."""
    flat = np.frombuffer(data, header.dtype, math.prod(header.shape), header.offset)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def check_dtype(dtype: np.dtype[Any]) -> None:
    """Raise Fault for anything but real numbers of at most 64 bits."""
    if dtype.hasobject:
        raise Fault("bad_array", "dtype object: Python objects are pickles, which are never read; save it as float32")
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise Fault("bad_array", f"dtype {dtype}: only real numbers of at most 64 bits are read; save it as float32")
