"""A model as an evaluation sees it: pictures and strings in, unit vectors out, each computed once.

Texts are made unique, sorted by length and batched by tokens; pictures are decoded by threads while the model
computes. What was embedded stays in memory, so several suites on one set share one pass.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from eval.pictures import Transform, decoded
from eval.progress import bar
from eval.sets import EvalSet
from mmclr.data.text import Tokenizer
from mmclr.errors import UserError
from mmclr.models.two_tower import TwoTower

TOKENS = 16_384  # of one batch of texts
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Embedder:
    """Both encoders of one model with its tokenizer and evaluation transform."""

    name: str
    model: TwoTower
    tokenizer: Tokenizer
    hash: str = ""  # of the weights' file
    device: str = "cpu"
    precision: str = "float32"
    batch: int = 256  # pictures
    workers: int = 2  # threads that decode
    pretrained: str = ""  # goes into results as it is
    _texts: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _pictures: dict[int, tuple[EvalSet, Embedded]] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, source: str | Path, *, device: str = "auto", **settings: object) -> Embedder:
        """Open a run, a checkpoint, its model/ folder, or a transformers CLIP folder."""
        folder = find(source)
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        model = TwoTower.load(folder).to(device).eval()
        tokenizer = Tokenizer.load(folder, context=model.config.text.context)
        return cls(str(source), model, tokenizer, file_hash(folder / "model.safetensors"), device, **settings)  # type: ignore[arg-type]

    @property
    def transform(self) -> Transform:
        """How a picture becomes pixels."""
        image = self.model.config.image
        return Transform(image.size)

    @property
    def transform_hash(self) -> str:
        """Tell whether two models see the same pixels."""
        image = self.model.config.image
        return hashlib.sha256(f"{self.transform} {image.mean} {image.std}".encode()).hexdigest()[:16]

    @property
    def scale(self) -> float:
        """Inverse temperature of the model's softmax."""
        return float(self.model.scale.detach())

    def texts(self, texts: Sequence[str], what: str = "texts") -> Tensor:
        """Return the unit-norm embeddings [n, D] of strings, float32 on the CPU."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        ids = self.tokenizer.encode(new)
        order = sorted(range(len(new)), key=lambda i: len(ids[i]))
        with bar(what, len(new)) as advance:
            for part in _by_tokens(order, ids):
                tokens, lengths = self.tokenizer.pad([ids[i] for i in part])
                with self._computing():
                    rows = self.model.encode_text(tokens.to(self.device), lengths.to(self.device))
                self._texts.update((new[i], row) for i, row in zip(part, rows.float().cpu()))
                advance(len(part))
        return torch.stack([self._texts[text] for text in texts])

    def pictures(self, data: EvalSet) -> Embedded:
        """Return the unit-norm embeddings of a set's pictures; what cannot be decoded leaves the set, counted."""
        if id(data) not in self._pictures:
            self._pictures[id(data)] = data, self._embed(data)
        return self._pictures[id(data)][1]

    def _embed(self, data: EvalSet) -> Embedded:
        digest, rows, kept = hashlib.sha256(), [], []
        with bar(f"pictures of {data.name}", len(data)) as advance:
            for batch in decoded(data, self.transform, self.batch, self.workers):
                digest.update(batch.digests)
                kept += batch.numbers
                if batch.numbers:
                    with self._computing():
                        rows.append(self.model.encode_image(self.model.normalise(batch.pixels.to(self.device))))
                    rows[-1] = rows[-1].float().cpu()
                advance(batch.size)
        if not kept:
            raise UserError(f"{data.name}: none of its {len(data)} pictures can be decoded")
        return Embedded(data.subset(kept, "undecodable picture"), torch.cat(rows), digest.hexdigest()[:16])

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        kind, dtype = torch.device(self.device).type, DTYPES[self.precision]
        with torch.inference_mode(), torch.autocast(kind, dtype, enabled=self.precision != "float32"):
            yield


@dataclass(frozen=True)
class Embedded:
    """A set and the embeddings of its pictures [N, D], row by row."""

    data: EvalSet
    images: Tensor
    hash: str  # of the pictures' bytes


def find(source: str | Path) -> Path:
    """Return the model folder that `source` is or holds: a model folder, a checkpoint, or a run's newest one."""
    path = Path(source)
    newest = sorted(path.glob("checkpoints/step-*/position.json"))[-1:]
    for folder in (path, path / "model", *(p.parent / "model" for p in newest)):
        if (folder / "model.safetensors").is_file():
            return folder
    raise UserError(f"{source}: no model there; name a run, a checkpoint, or a folder with model.safetensors")


def file_hash(path: Path) -> str:
    """Return the first 16 digits of a file's SHA-256."""
    with open(path, "rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()[:16] if hasattr(hashlib, "file_digest") else _digest(file)
        )


def _digest(file: object) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):  # type: ignore[attr-defined]
        digest.update(block)
    return digest.hexdigest()[:16]


def _by_tokens(order: Sequence[int], ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Cut a list sorted by length into batches of at most TOKENS tokens."""
    part: list[int] = []
    for i in order:
        if part and (len(part) + 1) * len(ids[i]) > TOKENS:
            yield part
            part = []
        part.append(i)
    if part:
        yield part
