"""A model as an evaluation sees it: images and strings in, unit vectors out, each computed once.

Texts are made unique and batched by length, or as a tree where they begin alike; images are decoded by threads
while the model computes. What was embedded is kept by content (store.py), so suites and sets share one pass.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmclr.eval.embed import ranks
from mmclr.eval.embed.images import Decoded, decoded
from mmclr.eval.embed.store import DIGEST, Store
from mmclr.eval.progress import bar
from mmclr.eval.sets.evaluation_set import EvalSet
from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel
from mmclr.data.pixels.choose import choose
from mmclr.data.pixels.medium import Medium
from mmclr.data.samples.skipped import Fault
from mmclr.data.samples.text import Tokenizer
from mmclr.errors import UserError
from mmclr.load_model import Trained, open_model
from mmclr.models.clip import prefix_tree
from mmclr.models.clip.towers import TextTower
from mmclr.models.ensemble import Composed
from mmclr.models.pooling.pool import FOLDER
from mmclr.models.two_tower import TwoTower

TOKENS = 16_384  # of one batch of texts
ROWS = 4096  # texts of one tree
COMPUTING = {".safetensors", ".json", ".txt", ".model"}  # endings of weights, configurations, vocabularies
TREE = 1.25  # times fewer tokens, from which on a tree is worth its gathering
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}


class Embedder:
    """Both encoders of one model with its tokenizer and evaluation transform."""

    def __init__(
        self,
        name: str,
        model: TwoTower | Composed,
        tokenizer: Tokenizer,
        *,
        hash: str = "",  # of the model's files
        device: str = "cpu",
        precision: str = "float32",
        batch: int = 256,  # images
        workers: int = 2,  # threads that decode
        head: str = "post",  # image features after the projection, pre: before it, or an objective: behind its head
        pretrained: str = "",  # goes into results as it is
        cache: Path | None = None,  # folder in which embeddings stay
    ) -> None:
        self.name, self.model, self.tokenizer, self.hash, self.pretrained = name, model, tokenizer, hash, pretrained
        self.device, self.precision, self.batch, self.workers, self.head = device, precision, batch, workers, head
        self._kept = torch.float64 if precision == "float64" else torch.float32  # dtype of embeddings
        model.to(self._kept)
        folders = (f"{hash}-{self.transform_hash}-{precision}-{head}", f"{hash}-text-{precision}-{head}")
        self._images, self._texts = (Store(cache / folder if cache and hash else None) for folder in folders)

    @classmethod
    def load(cls, source: str | Path, *, device: str = "auto", **settings: Any) -> Embedder:
        """Open a run, a checkpoint, an export, a CLIP or SigLIP folder of transformers, an open_clip folder or name."""
        head = settings.get("head", "post")
        found = open_model(source, head="" if head in ("post", "pre") else head)
        if head == "pre" and not isinstance(found.model, TwoTower):
            raise UserError(
                f"{source}: several models side by side have no one layer before the projection; leave "
                f"out --head pre, or name one of them"
            )
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        tokenizer = Tokenizer.load(found.folder, context=found.model.config.text.context)
        hash = folder_hash(found.folder, *found.files)
        loaded = cls(str(source), found.model.to(device).eval(), tokenizer, hash=hash, device=device, **settings)
        ranks.wait()  # all have read the same store before the first writes to it
        return loaded

    @cached_property
    def medium(self) -> Medium:
        """The way from an image to pixels."""
        return choose(self.model.config.image)

    @property
    def transform_hash(self) -> str:
        """Tell whether two models see the same pixels."""
        image = self.model.config.image
        how = f"Transform(size={image.size}, resize={image.resize!r}, resample={image.resample!r}){self.medium.note}"
        return hashlib.sha256(f"{how} {image.mean} {image.std}".encode()).hexdigest()[:16]

    @property
    def scale(self) -> float:
        """Inverse temperature of the model's softmax."""
        return float(self.model.scale.detach())

    def texts(self, texts: Sequence[str], what: str = "texts") -> Tensor:
        """Return the unit-norm embeddings [n, D] of strings, on the CPU."""
        if self.head == "pre":
            raise UserError(f"{what}: texts and images meet after the projection only; this needs --head post")
        digests = [hashlib.sha256(text.encode()).digest()[:DIGEST] for text in texts]
        new = list({d: text for d, text in zip(digests, texts) if d not in self._texts}.items())
        mine = [new[i] for i in ranks.part(len(new))]
        ids = self.tokenizer.encode([text for _, text in mine])
        rows = torch.empty(len(mine), self.model.config.embed, dtype=self._kept)
        encode, parts = self._tree_or_batches(ids)
        with bar(what, len(mine)) as advance:
            for part in parts:
                with self._computing():
                    rows[part] = encode([ids[i] for i in part]).to(self._kept).cpu()
                advance(len(part))
        self._texts.add([digest for digest, _ in new], ranks.join_parts(rows, len(new)))
        self._texts.flush()
        return self._texts.get(digests)

    def images(self, data: EvalSet) -> Embedded:
        """Return the unit-norm embeddings of a set's images; what cannot be decoded leaves the set, counted.

        Raises UserError when that is too much of it: see EvalSet.check.
        """
        store = self._images if data.keep else Store()
        mine, faults, lost = self._add_images(data, store)
        digests = self._share(mine, store, len(data))
        store.flush()
        told = [json.loads(said) for said in parallel.say(json.dumps({i: f.args for i, f in faults.items()}))]
        parts = map(json.loads, parallel.say(json.dumps([(i, fault.args) for i, fault in lost])))
        data = data.noting([(i, Fault(*why)) for part in parts for i, why in part])
        rest = data.without({int(i): Fault(*why) for part in told for i, why in part.items()})
        rows = store.get([digest for digest in digests if digest in store])
        return Embedded(rest, rows, hash_of(digests))

    def pictures(self, data: EvalSet) -> Embedded:
        """Call `images`, whose name this was; it goes with version 0.3."""
        return self.images(data)

    def _add_images(self, data: EvalSet, store: Store) -> tuple[list[bytes], dict[int, Fault], list[tuple[int, Fault]]]:
        """Embed this process's part of a set into the store; return its digests, its faults, and images it lost."""
        digests: list[bytes] = []
        faults: dict[int, Fault] = {}
        lost: list[tuple[int, Fault]] = []
        part = ranks.part(len(data))
        with bar(f"images of {data.name}", len(part)) as advance:
            for batch in decoded(data, part, self.medium, self.batch, self.workers, store):
                for new, rows in self._encode_items(batch):
                    store.add(new, rows)
                digests += batch.digests
                faults |= batch.faults
                lost += batch.lost
                advance(len(batch.digests))
        return digests, faults, lost

    def _share(self, mine: list[bytes], store: Store, n: int) -> list[bytes]:
        """Give all processes the digests and the rows of all n images."""
        if parallel.world() == 1:
            return mine
        known = torch.tensor([digest in store for digest in mine], dtype=torch.bool)
        rows = torch.zeros(len(mine), self._width, dtype=self._kept)
        if known.any():
            rows[known] = store.get([digest for digest in mine if digest in store])
        flat = (
            torch.frombuffer(bytearray(b"".join(mine)), dtype=torch.uint8)
            if mine
            else torch.empty(0, dtype=torch.uint8)
        )
        shared = ranks.join_parts(flat.view(-1, DIGEST), n)
        digests = [bytes(row) for row in shared.numpy()]
        rows, known = ranks.join_parts(rows, n), ranks.join_parts(known, n)
        store.add([digest for digest, k in zip(digests, known.tolist()) if k], rows[known])
        return digests

    def _encode_items(self, batch: Decoded) -> Iterator[tuple[list[bytes], Tensor]]:
        """Yield the new digests of a batch with their rows [m, D]: so many at a time as have self.batch images."""
        for items, images in _groups(batch.counts.tolist(), self.batch):
            with self._computing():
                pixels, counts = batch.pixels[images].to(self.device), batch.counts[items].to(self.device)
                rows = self._encode_pixels(pixels, counts)
            yield batch.new[items], rows.to(self._kept).cpu()

    def _encode_pixels(self, pixels: Tensor, counts: Tensor) -> Tensor:
        """Pixels [n, ...] of all images, counts [m] of each item -> [m, D]."""
        normalised = self.model.normalise(pixels)
        if self.head != "pre":
            return self.model.encode_images(normalised, counts)
        model = self.alone("embed before the projection")
        if model.config.image_pool == "attention" and len(normalised) > len(counts):
            raise UserError(f"{self.name}: its pool of several images lies behind the projection; leave out --head pre")
        features = F.normalize(model.vision_model(normalised), dim=-1)
        return features if len(features) == len(counts) else model.pool(features, counts)

    @property
    def _width(self) -> int:
        config = self.model.config
        return config.image.width if self.head == "pre" else config.embed

    def _tree_or_batches(self, ids: Sequence[list[int]]) -> tuple[Callable[[list[list[int]]], Tensor], list[list[int]]]:
        """Choose how texts are encoded: where they begin alike as a tree (models/prefixes.py), else by length."""
        if isinstance(self.model.text_model, TextTower) and prefix_tree.saving(ids) > TREE:
            order = sorted(range(len(ids)), key=lambda i: ids[i])
            return self._encode_tree, [order[i : i + ROWS] for i in range(0, len(order), ROWS)]
        return self._encode_batch, list(_by_tokens(sorted(range(len(ids)), key=lambda i: len(ids[i])), ids))

    def alone(self, what: str) -> TwoTower:
        """Return the model if it is a single one. Raises UserError: several side by side cannot do `what`."""
        if not isinstance(self.model, TwoTower):
            raise UserError(f"{self.name}: several models side by side cannot {what}; name one of them")
        return self.model

    def _encode_tree(self, ids: list[list[int]]) -> Tensor:
        model: Any = self.model  # whose text tower is ours
        return F.normalize(model.text_projection(prefix_tree.features(model.text_model, ids)), dim=-1)

    def _encode_batch(self, ids: list[list[int]]) -> Tensor:
        tokens, lengths = self.tokenizer.pad(ids)
        return self.model.encode_text(tokens.to(self.device), lengths.to(self.device))

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        kind, dtype = torch.device(self.device).type, DTYPES[self.precision]
        with torch.inference_mode(), torch.autocast(kind, dtype, enabled=dtype.itemsize == 2):
            yield


@dataclass(frozen=True)
class Embedded:
    """A set and the embeddings of its images [N, D], row by row."""

    data: EvalSet
    images: Tensor
    hash: str  # of the images' bytes


def facts(found: Trained) -> dict[str, str]:
    """Return what a column of a model's embeddings, or of what is made of them, says of the model: hash, transform."""
    image = found.model.config.image
    transform = f"{image.size} px, {image.resize}, {image.resample}{choose(image).note}"
    return {"model": folder_hash(found.folder, *found.files), "transform": transform}


def folder_hash(folder: Path, *more: Path) -> str:
    """Return a hash of what computes in a model folder, weights, configuration, tokenizer, and of further files."""
    digest = hashlib.sha256()
    own = (*folder.iterdir(), *(folder / FOLDER).glob("*"))
    for path in (*sorted(path for path in own if path.suffix in COMPUTING), *more):
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:16]


def hash_of(digests: Sequence[bytes]) -> str:
    """Return one hash of many."""
    return hashlib.sha256(b"".join(digests)).hexdigest()[:16]


def _groups(counts: Sequence[int], most: int) -> Iterator[tuple[slice, slice]]:
    """Cut items of so many images into consecutive groups of at most `most` images: slices of items, of images."""
    first = begin = end = 0
    for at, count in enumerate(counts):
        if at > first and end - begin + count > most:
            yield slice(first, at), slice(begin, end)
            first, begin = at, end
        end += count
    if end > begin:
        yield slice(first, len(counts)), slice(begin, end)


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
