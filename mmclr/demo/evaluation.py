"""The demo's model on a family of icons that it has never seen: numbers, and images of what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from mmclr.data.samples.skipped import Ledger
from mmclr.data_tools.commands.enrich.tokenizer import captions
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.metrics.ranking import rank, top
from mmclr.eval.result import Result
from mmclr.eval.sets.sources import open_set
from mmclr.eval.suites.classification import zero_shot
from mmclr.eval.suites.retrieval import retrieval
from mmclr.report.command import figures
from mmclr.report.gallery import Found, Prediction, Query
from mmclr.report.tables import Number

EXAMPLES = 12  # kept beside each result, for `mmclr report`
AIMS = {"name to icon, R@1": 0.10, "name to icon, R@10": 0.27, "R@10 of names also in training": 0.45}


class Evaluation:
    """The trained model on the family that it has never seen."""

    def __init__(self, checkpoint: Path, packed: dict[str, str]) -> None:
        embedder = self.embedder = Embedder.load(checkpoint)
        data = open_set(packed["test"], name="remix icons")
        classes = open_set(packed["test"], name="remix icons", label="json:plain")
        self.results = [
            retrieval.run(embedder, data, relation="caption", show=EXAMPLES),
            zero_shot.run(embedder, classes, show=EXAMPLES),
        ]
        for result, name in zip(self.results, ("retrieval", "zero_shot")):
            result.save(checkpoint.parent.parent / "eval" / f"{name}.json")
        embedded = embedder.images(data)
        self.data, self.images = embedded.data, embedded.images
        self.names, self.relevance = retrieval.queries(self.data, "caption")
        self.texts = embedder.texts(self.names)
        trained_on = set(captions(packed["train"], "txt", Ledger()))
        self.seen = torch.tensor([name in trained_on for name in self.names])

    @property
    def count(self) -> int:
        """Number of icons."""
        return len(self.data)

    def numbers(self) -> list[Number]:
        """The few numbers that say how good it is."""
        ranks = rank(self.texts, self.images, self.relevance)
        hits = ranks.hits(10)
        named = {
            "name to icon, R@1": Measurement(ranks.hits(1).numpy(), unit="names"),
            "name to icon, R@10": Measurement(hits.numpy(), unit="names"),
            "R@10 of names also in training": Measurement(hits[self.seen].numpy(), unit="names"),
            "R@10 of names new to it": Measurement(hits[~self.seen].numpy(), unit="names"),
        }
        return [
            Number(
                name,
                m.mean,
                m.interval(),
                f"n = {m.n}",
                chance=10 / self.count if "10" in name else None,
                aim=AIMS.get(name),
            )
            for name, m in named.items()
        ]

    def rows(self, *more: Result) -> list[tuple[str, float | None, Sequence[float] | None]]:
        """Every measure of both suites, and of further results, with its interval."""
        return [(name, value, r.ci95.get(name)) for r in (*self.results, *more) for name, value in r.metrics.items()]

    def figures(self) -> Sequence[str]:
        """Scores of right and wrong pairs, and a map of the embeddings."""
        return figures(self.results[0].examples)

    def gallery(self, queries: Sequence[str], k: int = 10) -> list[Query]:
        """The images that each text finds."""
        scores, found = top(self.embedder.texts(queries), self.images, k)
        return [
            Query(text, [self._found(text, i, s) for i, s in zip(row.tolist(), best.tolist())])
            for text, row, best in zip(queries, found, scores)
        ]

    def predictions(self, count: int) -> list[Prediction]:
        """The names that some icons are taken for, with the model's probabilities."""
        some = torch.linspace(0, self.count - 1, count).long()
        shares = (self.embedder.scale * self.images[some] @ self.texts.T).softmax(1)
        best = shares.topk(4)
        return [
            Prediction(self.data.read(i), self.data.captions[i][0], [(self.names[j], p) for j, p in zip(where, what)])
            for i, where, what in zip(some.tolist(), best.indices.tolist(), best.values.tolist())
        ]

    def _found(self, text: str, number: int, score: float) -> Found:
        name = self.data.captions[number][0]
        return Found(self.data.read(number), right=text == name if text in self.names else None, name=name, score=score)
