"""The values of a sample: text and JSON out of bytes, a field of them, and captions, labels and weights out of a field.

Everything that reads samples or tables (training, evaluations, tools) reads values here, so that a value means the same
everywhere. What cannot be used raises Fault with its reason and place; nothing else is raised, whatever the bytes are.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mmclr.data.samples.skipped import Fault

TEXT_BYTES = 1 << 20  # of a member that is text, and characters of one caption: a long book
JSON_BYTES = 1 << 24  # of a json member
IMAGE_BYTES = 1 << 28  # of an image file
DEPTH = 100  # brackets within brackets of a json member: what handles its values may be recursive
CAPTIONS = 10_000  # of one field of one sample
HEAVIEST = 1e30  # weight: a batch of these still has a finite sum in float32
MARKS = {  # a text that begins with one of these is encoded so; the longer mark comes first
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
KINDS = {
    dict: "an object",
    list: "a list",
    bool: "true or false",
    float: "not finite",
    int: "a huge number",
}  # of JSON, in words
WHOLE = re.compile(r"([+-]?\d+)(\.0*)?", re.ASCII)


class Members(Protocol):
    """A sample, as far as its values are concerned."""

    @property
    def members(self) -> Mapping[str, bytes]:
        """Its bytes by extension."""


class Field:
    """The place of a value: "txt" for a member, "json:a.b" for a field of one.

    json:a.b is the value of b inside a; where an object has a key that is called "a.b", dot and all, it is that one's.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.extension, _, self.path = text.partition(":")

    def value(self, sample: Members) -> Any:
        """Return what stands there: text, or a value of JSON; None when it is not there, or null. Raises Fault."""
        data = sample.members.get(self.extension)
        if data is None:
            return None
        return find(tree(data, self.extension), self.path) if self.path else text(data, self.extension)

    def texts(self, sample: Members, lost: list[Fault] | None = None) -> list[str] | None:
        """Return the captions that stand there, None when the field is not there: see `captions`. Raises Fault."""
        return captions(self.value(sample), self.text, lost)


def text(data: bytes, name: str) -> str:
    """Return bytes as text: UTF-8, or what a byte order mark says. `name` is for the message. Raises Fault."""
    if len(data) > TEXT_BYTES:
        raise Fault("bad_text", f"{name} has more than the {TEXT_BYTES:,} bytes that a text may have")
    return _decode(data, name)


def tree(data: bytes, name: str) -> Any:
    """Return the value of a json member; of keys that an object has twice, the last counts. Raises Fault."""
    if len(data) > JSON_BYTES:
        raise Fault("bad_text", f"{name} has more than the {JSON_BYTES:,} bytes that JSON may have")
    deep = Fault("bad_text", f"{name} has more than {DEPTH} brackets within each other")
    try:
        value = json.loads(_decode(data, name))
    except RecursionError:
        raise deep from None
    except ValueError as error:
        raise Fault("bad_text", f"{name} is not JSON: {error}") from error
    if data.count(b"[") + data.count(b"{") > DEPTH and _is_deep(value):
        raise deep
    return value


def find(value: Any, path: str) -> Any:
    """Return the field of a JSON value that a path with dots leads to, None when it leads nowhere."""
    if not isinstance(value, dict):
        return None
    if path in value:
        return value[path]
    names = path.split(".")
    for count in range(len(names) - 1, 0, -1):
        found = find(value.get(".".join(names[:count])), ".".join(names[count:]))
        if found is not None:
            return found
    return None


def captions(value: Any, name: str, lost: list[Fault] | None = None) -> list[str] | None:
    """Return the captions that a value holds: it, or the entries of a list; None where it is null or NaN.

    Numbers are their digits. An entry that is no caption (an object, a lone surrogate) is left out and added to `lost`
    while there are others; null entries are none. Raises Fault when nothing else is there, or too much.
    """
    if is_missing(value):
        return None
    values = value if isinstance(value, list) else [value]
    if len(values) > CAPTIONS:
        raise Fault(
            "bad_text", f"{name} has {len(values):,} captions, more than the {CAPTIONS:,} that a field may have"
        )
    found, bad = [], []
    for entry in values:
        try:
            if not is_missing(entry):
                found.append(caption(entry, name))
        except Fault as fault:
            bad.append(fault)
    if bad and not found:
        raise bad[0]
    if lost is not None:
        lost += [Fault("lost_caption", fault.detail) for fault in bad]
    return found


def caption(value: Any, name: str) -> str:
    """Return one value as the text that it is, which every tokenizer and file can take. Raises Fault."""
    if isinstance(value, str):
        return encodable(value, name)
    try:
        if _is_number(value) and math.isfinite(value):
            return str(value)
    except (OverflowError, ValueError):  # hundreds or thousands of digits
        raise Fault("bad_text", f"{name} is a number of {value.bit_length()} bits, not a caption") from None
    raise Fault("bad_text", f"{name} is {kind_of(value)}, not a caption or a list of captions")


def encodable(text: str, name: str) -> str:
    """Return the text when it has UTF-8 bytes, none of them NUL, and not too many of them. Raises Fault."""
    if len(text) > TEXT_BYTES:
        raise Fault("bad_text", f"{name} has {len(text):,} characters, more than {TEXT_BYTES:,}")
    try:
        if not text.isascii():
            text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Fault("bad_text", f"{name} has half a character (a lone surrogate) at character {error.start}") from error
    if "\0" in text:
        raise Fault("bad_text", f"{name} has a NUL at character {text.index(chr(0))}: not text, or UTF-16 without mark")
    return text


def label(value: Any, name: str, words: bool = True) -> int:
    """Return a value as an int64: a whole number, or, with `words`, the hash of other text. Raises Fault.

    Of a list it is the first entry. 3.0 is 3; true, false and 3.5 are words.
    """
    value = first(value)
    if value is None or isinstance(value, (dict, list)) or isinstance(value, float) and not math.isfinite(value):
        raise Fault("bad_label", f"{name} is {kind_of(value)}, not a label")
    if type(value) is int or isinstance(value, float) and value.is_integer():
        return _int64(int(value), name)
    text = encodable(str(value), name).strip()
    try:
        digits = WHOLE.fullmatch(text)
        return _int64(int(digits[1] if digits else text), name)
    except ValueError:  # no number, or one of more digits than int() takes
        if digits:
            raise Fault("bad_label", f"{name} is {text[:40]}..., which is beyond 64 bits") from None
    if not words or not text:
        raise Fault("bad_label", f"{name} is {text[:40]!r}, not a whole number")
    return identity(text.encode())


def weight(value: Any, name: str) -> float:
    """Return a value as a sample's weight, 0 to 1e30; of a list it is the first entry. Raises Fault."""
    value = first(value)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (ValueError, TypeError, OverflowError):
        number = math.nan
    if not 0 <= number <= HEAVIEST:
        shown = f"{value[:40]!r}" if isinstance(value, str) else kind_of(value) if math.isnan(number) else f"{number:g}"
        raise Fault("bad_label", f"{name} is {shown}, not a weight between 0 and {HEAVIEST:g}")
    return number


def check_image(size: int, name: str) -> None:
    """Raise Fault when an image file has more bytes than any that is opened."""
    if size > IMAGE_BYTES:
        said = f"{name} has {size:,} bytes, more than the {IMAGE_BYTES:,} that an image file may have"
        raise Fault("bad_image", said)


def identity(data: bytes) -> int:
    """Return an int64 that equal bytes share, on every machine."""
    return int.from_bytes(hashlib.sha1(data, usedforsecurity=False).digest()[:8], "little", signed=True)


def extensions(fields: Sequence[str]) -> tuple[str, ...]:
    """Return the members that fields stand in."""
    return tuple(dict.fromkeys(Field(text).extension for text in fields if text))


def _decode(data: bytes, name: str) -> str:
    encoding = next((encoding for mark, encoding in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        found = data.decode(encoding)
    except UnicodeDecodeError as error:
        told = encoding.upper().removesuffix("-SIG")
        raise Fault("bad_text", f"{name} is not {told} at byte {error.start}") from error
    if "\0" in found:
        at = data.index(b"\0") if encoding.startswith("utf-8") else found.index("\0")
        raise Fault("bad_text", f"{name} has a NUL at {at}: not text, or UTF-16 without its byte order mark")
    return found


def _is_deep(value: Any) -> bool:
    """Whether a JSON value has more than DEPTH levels."""
    level = [value]
    for _ in range(DEPTH):
        below = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, (dict, list))]
        level = [v for values in below for v in values if isinstance(v, (dict, list))]
        if not level:
            return False
    return True


def _int64(value: int, name: str) -> int:
    if not -(1 << 63) <= value < 1 << 63:
        raise Fault("bad_label", f"{name} is a number of {value.bit_length()} bits, more than 63 and a sign")
    return value


def first(value: Any) -> Any:
    """Return the first entry of a list that is not null, anything else as it is."""
    return next((entry for entry in value if entry is not None), None) if isinstance(value, list) else value


def is_missing(value: Any) -> bool:
    """Whether a value is null, or NaN, which tables write for what is not there."""
    return value is None or isinstance(value, float) and math.isnan(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def kind_of(value: Any) -> str:
    """Return in words what kind of JSON a value is."""
    return KINDS.get(type(value), f"a {type(value).__name__}" if value is not None else "null")
