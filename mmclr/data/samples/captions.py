"""The text of a sample: which field, which of several captions, which sentence, and small edits of its words."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from mmclr.config import config
from mmclr.data.random import Words, key, uniform
from mmclr.data.samples.fields import CAPTIONS, Field, Members, extensions, identity
from mmclr.data.samples.skipped import REASONS, Fault

__all__ = ["Chooser", "Field", "TextEdits", "edit", "extensions", "identity", "text_id"]

FIELD, CHOICE, PART, EDIT, VIEW, SOURCE = range(16, 22)  # stages; those of images are below
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


class Chooser:
    """Takes M captions from each sample, T more forms of the first, and one of each source, by keyed draws."""

    def __init__(
        self,
        fields: dict[str, float],
        split: str = "none",
        edits: TextEdits | None = None,
        captions: int = 1,
        views: int = 0,
        view_edits: TextEdits | None = None,
        sources: Sequence[str] = (),
    ) -> None:
        self.fields = [(Field(text), weight) for text, weight in fields.items()]
        self.split, self.edits, self.captions = split, edits or TextEdits(), captions
        self.views, self.view_edits = views, view_edits or TextEdits()
        self.sources = [Field(text) for text in sources]

    def candidates(self, sample: Members, lost: list[Fault] | None = None) -> list[tuple[float, list[str]]]:
        """Return (weight, captions) of each field that has any. Raises Fault when none has.

        What cannot be read, a field or one of its captions, is added to `lost` when another gives a caption.
        """
        found: list[tuple[float, list[str]]] = []
        bad: list[Fault] = []
        left_out: list[Fault] = []
        for field, weight in self.fields:
            try:
                parts = self._captions(field, sample, left_out)
                if parts is not None:
                    found.append((weight, parts))
            except Fault as fault:
                bad.append(fault)
        if not found:
            has = ", ".join(sample.members) or "none"
            missing = Fault("no_caption", f"no {' or '.join(f.text for f, _ in self.fields)}; its members are {has}")
            raise bad[0] if bad else missing
        if lost is not None:
            lost += left_out + [Fault("lost_caption", f"{REASONS[fault.reason]}: {fault.detail}") for fault in bad]
        return found

    def of_sources(self, sample: Members, lost: list[Fault]) -> tuple[list[str], ...]:
        """Return the captions of each source, [] where a sample has none; what cannot be read is added to `lost`."""
        found: list[list[str]] = []
        for field in self.sources:
            try:
                found.append(self._captions(field, sample, lost) or [])
            except Fault as fault:
                lost.append(Fault("lost_caption", f"{REASONS[fault.reason]}: {fault.detail}"))
                found.append([])
        return tuple(found)

    def choose_of_sources(self, found: Sequence[list[str]], word: Words) -> list[str]:
        """Return a caption of each source, edited as others are, "" where there is none. word: [1], as in `choose`."""
        draws = [key(word, SOURCE, number) for number in range(len(found))]
        return [
            edit(self.edits, texts[int(uniform(own, 1)[0, 0] * len(texts))], key(own, EDIT)) if texts else ""
            for texts, own in zip(found, draws)
        ]

    def _captions(self, field: Field, sample: Members, lost: list[Fault]) -> list[str] | None:
        """Return the captions of a field, None when it is not there. Raises Fault."""
        texts = field.texts(sample, lost)
        if texts is None:
            return None
        parts = [part for text in texts for part in self._parts(text)]
        if not parts:
            raise Fault("empty_caption", f"{field.text} has nothing but spaces")
        if len(parts) > CAPTIONS:
            raise Fault("bad_text", f"{field.text} has {len(parts):,} {self.split}, more than {CAPTIONS:,}")
        return parts

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
