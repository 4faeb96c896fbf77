"""Train, evaluate and export a small model on real icons, then show a report.

The whole line once, from nothing: no network, minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from mmclr.config import load
from mmclr.data.samples.skipped import Ledger
from mmclr.data.samples.text import Tokenizer
from mmclr.data_tools.commands.convert import icons
from mmclr.data_tools.commands.enrich.tokenizer import captions
from mmclr.demo.evaluation import Evaluation
from mmclr.demo.naming import Captions, learn
from mmclr.display.console import Console
from mmclr.display.secrets import redact
from mmclr.display.terminal import plain
from mmclr.export.commands.transformers import export
from mmclr.report import Page
from mmclr.storage import written

STAGES = 8
QUERIES = ["cloud off", "music", "shopping cart", "arrow left", "heart", "camera", "lock", "bluetooth",
           "moon", "car", "mail", "map pin", "volume up", "trophy", "umbrella", "wifi off"]  # fmt: skip

# Run by a Python that cannot import mmclr: the export must stand on its own.
LOAD_ALONE = """
import sys; sys.modules["mmclr"] = None
import torch
from transformers import AutoModel, AutoProcessor
model, processor = AutoModel.from_pretrained(sys.argv[1]), AutoProcessor.from_pretrained(sys.argv[1])
with torch.no_grad():
    text = model.get_text_features(**processor(text=sys.argv[2:], return_tensors="pt", padding=True))
print(type(model).__name__, list(getattr(text, "pooler_output", text).shape))
"""


def main(argv: list[str]) -> None:
    """Pack, train, evaluate, export, load back, report."""
    parser = argparse.ArgumentParser(
        description="Train a small model on about 14,000 real icons and their names, search with it in a family of "
        "icons whose drawing style it has never seen, export it to transformers, and write report.html. About six "
        "minutes on two cores, no network. A demo that was stopped goes on where it was.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder (default runs/demo)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to demo.yaml, e.g. steps=300")
    args = parser.parse_intermixed_args(argv)
    Demo(args.out, args.overrides).run()


class Demo:
    """The stages in order, each of which says what it does and how long it took."""

    def __init__(self, out: Path, overrides: Sequence[str]) -> None:
        self.out, self.overrides = out, list(overrides)
        self.console = Console()
        self.times: list[tuple[str, float]] = []

    def run(self) -> None:
        """All stages."""
        packed = self._stage("pack icons into tar shards", self._pack)
        self._stage("learn a tokenizer from their names", self._learn_tokenizer, packed)
        checkpoint = self._stage("train", self._train, packed)
        captioner = self._stage("learn to write names", self._learn_captions, checkpoint, packed)
        found = self._stage("evaluate on the unseen family", Evaluation, checkpoint, packed)
        written = self._stage("let it name the unseen family", Captions, captioner, packed, self.out / "eval")
        differences = self._stage("export to transformers and load it back", self._export, checkpoint)
        report = self._stage("write the report", self._report, found, written, differences)
        self._conclude(found, written, report)

    def _stage(self, name: str, work: Any, *inputs: Any) -> Any:
        self.console.print(f"{len(self.times) + 1}/{STAGES} {name}", style="bold")
        began = time.monotonic()
        out = work(*inputs)
        self.times.append((name, time.monotonic() - began))
        return out

    def _pack(self) -> dict[str, str]:
        packed = icons.pack(self.out / "shards")
        return {part: str(self.out / "shards" / packed[part]["url"]) for part in ("train", "test")}

    def _learn_tokenizer(self, packed: dict[str, str]) -> None:
        with written.folder(self.out / "tokenizer", "tokenizer") as partial:
            Tokenizer.train(captions(packed["train"], "txt", Ledger()), size=2000, context=16).save(partial)

    def _train(self, packed: dict[str, str]) -> Path:
        from mmclr.demo.training import train
        from mmclr.train.run import RunConfig

        here = [f"data.train={packed['train']}", f"tokenizer={self.out / 'tokenizer'}", f"out={self.out}"]
        return train(load(RunConfig, "demo.yaml", [*here, *self.overrides]))

    def _learn_captions(self, checkpoint: Path, packed: dict[str, str]) -> Path:
        steps = json.loads((checkpoint / "position.json").read_text())["step"]
        return learn(checkpoint, packed, self.out / "tokenizer", self.out / "captions", steps)

    def _export(self, checkpoint: Path) -> dict[str, float]:
        folder = self.out / "export"
        differences = export(checkpoint, folder)
        command = [sys.executable, "-W", "ignore", "-c", LOAD_ALONE, str(folder), *QUERIES[:3]]
        alone = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        self.console.print(f"  a fresh Python without mmclr loads it: {alone}", soft_wrap=True)
        return differences

    def _report(self, found: Evaluation, written: Captions, differences: dict[str, float]) -> Path:
        page = Page(
            "mmclr demo",
            f"What a small model makes of {found.count:,} icons in a drawing style that training never saw",
        )
        page.numbers([*found.numbers(), *written.numbers()[:1]], "Finding and naming icons")
        page.gallery(
            "What it finds", found.gallery(QUERIES), "A text, and the icons nearest to it; the right ones are marked."
        )
        page.predictions("What it sees", found.predictions(12), "An icon, its name, and the names nearest to it.")
        page.captions(
            "What it writes", written.written(), "The name that its decoder writes, and below it the one it was given."
        )
        page.charts("How they lie", found.figures())
        page.curves(self.out / "log.jsonl")
        page.table(
            "Evaluation",
            ["measure", "value", "95 % from", "to"],
            [[name, value, *(interval or (None, None))] for name, value, interval in found.rows(written.result)],
        )
        page.table(
            "Time",
            ["stage", "seconds"],
            [[name, round(s, 1)] for name, s in self.times],
            f"{sum(s for _, s in self.times):.0f} s in all, but for this page.",
        )
        page.text(
            "Export",
            "The trained encoders lie in `export/` as a transformers CLIPModel with its processor. Largest differences "
            "to the checkpoint: " + ", ".join(f"{k.replace('_', ' ')} {v:.1e}" for k, v in differences.items()) + ".",
        )
        return page.save(self.out / "report.html")

    def _conclude(self, found: Evaluation, written: Captions, report: Path) -> None:
        table = Table(title=f"{found.count:,} icons, {len(found.names):,} names, a style never seen in training")
        for column in ("measure", "value", "95 % interval", "aim"):
            table.add_column(column)
        for item in [*found.numbers(), *written.numbers()]:
            assert isinstance(item.value, float)
            assert item.interval is not None
            low, high = item.interval
            table.add_row(item.name, f"{item.value:.3f}", f"{low:.3f} - {high:.3f}", f"{item.aim or '':}")
        self.console.print(table)
        steps = {
            "look at it": f"open {report}",
            "search with it": f"mmclr eval retrieval {self.out} --data SHARDS",
            "let it write": f"mmclr caption {self.out / 'captions'} IMAGES",
            "use it elsewhere": f'transformers.AutoModel.from_pretrained("{self.out / "export"}")',
            "train on your own": "mmclr train base.yaml 'data.train=SHARDS/{00000..00099}.tar' epochs=30",
        }
        for name, command in steps.items():  # no table, which would cut what people copy
            self.console.print(Text.assemble((f"{name:<18}", "bold"), plain(redact(command))), soft_wrap=True)
