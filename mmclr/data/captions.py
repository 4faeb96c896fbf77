"""The text of a sample: which field, which of several captions, which sentence, and small edits of its words."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmclr.config import config
from mmclr.data.ledger import Fault
from mmclr.data.random import Words, key, uniform
from mmclr.data.shards import Sample

FIELD, CHOICE, PART, EDIT, VIEW = range(16, 21)  # stages; those of pictures are below
SENTENCES = re.compile(r"(?<=[.!?。！？])\s+")
STOP_WORDS = """
a an and are as at be been being but by for from had has have he her his i in into is it its my of on or our she so
some such than that the their then there these they this those to was we were which who with you your
"""


@config
class TextEdits:
    """Random edits of a caption's words (J. Wei, K. Zou, EDA, EMNLP 2019, arXiv 1901.11196), without synonyms."""

    probability: float = 0.0  # that a caption is edited at all
    delete: float = 0.1  # probability of leaving out each word; one always stays
    swap: float = 0.1  # pairs of words that change places, as a share of the words
    stop_words: float = 0.0  # probability of leaving out all English words that say little (a, of, the), before this


class Field:
    """Where a caption stands: "txt" for a member, "json:a.b" for a field of one."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.extension, _, path = text.partition(":")
        self.path = path.split(".") if path else []

    def texts(self, sample: Sample) -> list[str] | None:
        """Return the captions that stand there, None when the field is not there. Raises Fault."""
        data = sample.members.get(self.extension)
        if data is None:
            return None
        value = self.value(data) if self.path else decode(data, self.extension)
        if value is None:
            return None
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(v, (str, int, float)) for v in values):
            raise Fault("bad_text", f"{self.text} is a {type(value).__name__}, not a caption or a list of captions")
        return [str(v) for v in values]

    def value(self, data: bytes) -> Any:
        """Return the value of the field in a json member, None when it is not there. Raises Fault."""
        try:
            value: Any = json.loads(decode(data, self.extension))
        except (ValueError, RecursionError) as error:
            raise Fault("bad_text", f"{self.extension} is not JSON: {error}") from error
        for name in self.path:
            value = value.get(name) if isinstance(value, dict) else None
        return value


def decode(data: bytes, extension: str) -> str:
    """Return UTF-8 bytes as text. Raises Fault."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Fault("bad_text", f"{extension} is not UTF-8 at byte {error.start}") from error


class Chooser:
    """Takes M captions from each sample, and T more forms of the first, by keyed draws."""

    def __init__(
        self,
        fields: dict[str, float],
        split: str = "none",
        edits: TextEdits | None = None,
        captions: int = 1,
        views: int = 0,
        view_edits: TextEdits | None = None,
    ) -> None:
        self.fields = [(Field(text), weight) for text, weight in fields.items()]
        self.split, self.edits, self.captions = split, edits or TextEdits(), captions
        self.views, self.view_edits = views, view_edits or TextEdits()

    def candidates(self, sample: Sample) -> list[tuple[float, list[str]]]:
        """Return (weight, captions) of each field that has any. Raises Fault when none has.

        A field that cannot be read counts only when no other field gives a caption.
        """
        found, first = [], None
        for field, weight in self.fields:
            try:
                texts = field.texts(sample)
            except Fault as fault:
                first = first or fault
                continue
            if texts is not None:
                parts = [part for text in texts for part in self._parts(text)]
                if parts:
                    found.append((weight, parts))
                else:
                    first = first or Fault("empty_caption", f"{field.text} has nothing but spaces")
        if not found:
            has = ", ".join(sample.members) or "none"
            missing = Fault("no_caption", f"no {' or '.join(f.text for f, _ in self.fields)} among its members {has}")
            raise first or missing
        return found

    def choose(self, candidates: list[tuple[float, list[str]]], word: Words) -> list[str]:
        """Return M captions, different ones as long as there are any, and T views of the first: its edited forms.

        word: [1], what the draws are keyed by.
        """
        if len(candidates) == 1 and len(candidates[0][1]) == 1 and not self.edits.probability and not self.views:
            return candidates[0][1] * self.captions
        taken: list[str] = []
        left = [(weight, list(texts)) for weight, texts in candidates]
        for turn in range(self.captions):
            if not left:
                left = [(weight, list(texts)) for weight, texts in candidates]
            where, which = uniform(key(word, FIELD, turn), 2)[0]
            total = np.cumsum([weight for weight, _ in left])
            place = min(int(np.searchsorted(total, where * total[-1], side="right")), len(left) - 1)
            texts = left[place][1]
            taken.append(texts.pop(int(which * len(texts))))
            if not texts:
                left.pop(place)
        views = [edit(self.view_edits, taken[0], key(word, VIEW, turn)) for turn in range(self.views)]
        return [edit(self.edits, text, key(word, EDIT, turn)) for turn, text in enumerate(taken)] + views

    def _parts(self, text: str) -> list[str]:
        pieces = [text]
        if self.split == "lines":
            pieces = text.splitlines()
        elif self.split == "sentences":
            pieces = SENTENCES.split(text)
        return [piece.strip() for piece in pieces if piece.strip()]


def edit(how: TextEdits, text: str, word: Words) -> str:
    """Return a caption with its words changed; word: [1], what the draws are keyed by."""
    words = text.split()
    if not how.probability or len(words) < 2:
        return text
    draws = uniform(word, 2 + 2 * len(words))[0]
    if draws[0] >= how.probability:
        return text
    if draws[-1] < how.stop_words:
        stop = STOP_WORDS.split()
        words = [w for w in words if w.lower().strip(".,;:!?") not in stop] or words
    for i in range(round(how.swap * len(words))):
        a, b = (draws[1 + 2 * i : 3 + 2 * i] * len(words)).astype(int)
        words[a], words[b] = words[b], words[a]
    keep = draws[1 + len(words) : 1 + 2 * len(words)] >= how.delete
    if not keep.any():
        keep[int(draws[1] * len(words))] = True
    return " ".join(w for w, kept in zip(words, keep) if kept)


def text_id(text: str) -> int:
    """Return an int64 that equal captions share: case and spaces do not count."""
    return identity(" ".join(text.lower().split()).encode("utf-8", "surrogatepass"))


def identity(data: bytes) -> int:
    """Return an int64 that equal bytes share, on every machine."""
    return int.from_bytes(hashlib.sha1(data, usedforsecurity=False).digest()[:8], "little", signed=True)


def number(field: Field, sample: Sample, default: int | float, words: bool = False) -> int | float:
    """Return the number of a member or json field; with `words`, other text becomes the number of its hash."""
    texts = field.texts(sample)
    if not texts:
        return default
    text = texts[0].strip()
    try:
        return int(text) if isinstance(default, int) else float(text)
    except ValueError:
        if words and text:
            return identity(text.encode())
        raise Fault("bad_label", f"{field.text} is {text[:40]!r}") from None


def extensions(fields: Sequence[str]) -> tuple[str, ...]:
    """Return the members that fields stand in."""
    return tuple(dict.fromkeys(Field(text).extension for text in fields if text))
