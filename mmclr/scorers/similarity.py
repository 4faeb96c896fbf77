"""The cosine between an image and its text, as a model sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmclr.data.samples.text import Tokenizer
from mmclr.encoder import Encoder, Prepared
from mmclr.eval.embed.embedder import facts
from mmclr.load_model import open_model
from mmclr.scorers.scorer import Scorer


class Similarity(Scorer, key="similarity"):
    """Score a pair by the cosine of its embeddings, -1 to 1."""

    model: str  # a run, checkpoint, model folder, export or name
    weights: str = "auto"  # of a checkpoint: average, model, or auto: averaged if the run kept an average
    head: str = ""  # an objective of a run, behind whose head the cosine is taken
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...

    @cached_property
    def _opened(self) -> tuple[Encoder, Mapping[str, Any]]:
        found = open_model(self.model, self.weights, self.head)
        tokenizer = Tokenizer.load(found.folder, found.model.config.text.context)
        return Encoder(found.model, tokenizer, self.device), {**facts(found), "head": self.head}

    def made(self) -> Mapping[str, Any]:
        """Return the hash of the weights and the transform, which stay what they are when a folder is moved."""
        return self._opened[1]

    @property
    def members(self) -> Sequence[str]:
        """Extensions of the members that this model's images lie in."""
        return self._opened[0].medium.members

    @property
    def beside(self) -> Sequence[str]:
        """Extensions of what tells how they are to be read."""
        return self._opened[0].medium.beside

    def prepare(self, data: bytes, beside: Mapping[str, bytes]) -> Prepared:
        """Decode an image to the model's size."""
        return self._opened[0].prepare(data, beside)

    def score(self, images: Sequence[Prepared], texts: Sequence[str]) -> NDArray[np.float32]:
        encoder, _ = self._opened
        distinct = {id(image): image for image in images}  # the captions of an image share it
        place = {key: number for number, key in enumerate(distinct)}
        x = encoder.encode_seen(list(distinct.values()))[[place[id(image)] for image in images]]
        return np.asarray((x * encoder.encode_text(list(texts))).sum(1), np.float32)
