"""The demo's captioner: a decoder on top of the trained towers, which stay as they are, and what it writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mmclr.config import load
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.sets.sources import open_set
from mmclr.eval.suites.retrieval import caption
from mmclr.report.gallery import Written
from mmclr.report.tables import Number

SHOWN = 18


def learn(model: Path, packed: dict[str, str], tokenizer: Path, out: Path, steps: int) -> Path:
    """Train the decoder for at most so many steps; return the checkpoint."""
    from mmclr.demo.training import train
    from mmclr.train.run import RunConfig

    given = [f"data.train={packed['train']}", f"tokenizer={tokenizer}", f"out={out}"]
    run = load(RunConfig, "demo_captions.yaml", [*given, f"model.preset={model}", f"init.source={model}"])
    return train(dataclasses.replace(run, steps=min(run.steps or steps, steps)))


class Captions:
    """The captioner's texts about the family that it has never seen."""

    def __init__(self, checkpoint: Path, packed: dict[str, str], out: Path) -> None:
        data = open_set(packed["test"], name="remix icons")
        self.result = caption.run(Embedder.load(checkpoint), data, show=SHOWN)
        self.result.save(out / "caption.json")

    def numbers(self) -> list[Number]:
        """Share of names that are just right, and the likeness of the others."""
        wanted = {"exact": "exact name written", "ROUGE_L": "written words in common, ROUGE-L"}
        return [
            Number(name, self.result.metrics[key], self.result.ci95[key], f"n = {self.result.n[key]}")
            for key, name in wanted.items()
        ]

    def written(self) -> list[Written]:
        """Icons with the names that it writes."""
        kept = self.result.examples["captions"]
        return [Written(item["image"], item["caption"], item["truth"], item["right"]) for item in kept]
