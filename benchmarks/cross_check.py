"""Our numbers against pip's clip-benchmark 1.6.2, run as its users run it, on one model and three sets.

The peer reads our open_clip export with open_clip, its transform and its tokenizer: nothing of mmclr computes its
numbers. Both compute in float64: in float32 two scores that differ by less than its rounding
stand in whichever order a matmul happens to give. Sets: classification, several classes an image, retrieval with
several captions.
    python benchmarks/cross_check.py [--model FOLDER] [--data SHARDS]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import peers
import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.result import Result
from mmclr.eval.sets import layout
from mmclr.eval.sets.evaluation_set import EvalSet
from mmclr.eval.sets.sources import open_set
from mmclr.eval.suites.classification import zero_shot
from mmclr.eval.suites.retrieval import retrieval
from rich.console import Console
from rich.table import Table

from mmclr.config import check
from mmclr.data.samples.text import Tokenizer
from mmclr.export.commands import open_clip
from mmclr.export.origin import Source
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower, with_tokenizer

PICTO = str(peers.PICTO / "test-{00000..00003}.tar")
TEMPLATES = ["an icon of {c}.", "a small drawing of {c}", "{c}"]
COMMON = 15  # images that a tag must have to be a class
PEER = """
import torch, open_clip
import clip_benchmark.models as models

class Peer(torch.nn.Module):
    def __init__(self, clip):
        super().__init__()
        self.clip = clip.double().eval()
        self.mean, self.std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1)
                               for v in (clip.visual.image_mean, clip.visual.image_std))
    def encode_image(self, pixels):
        whole = ((pixels.double() * self.std + self.mean) * 255).round()  # what float32 normalising rounded off
        return self.clip.encode_image((whole / 255 - self.mean) / self.std)
    def encode_text(self, ids):
        return self.clip.encode_text(ids)

def load(model_name, pretrained, cache_dir, device):
    clip, _, transform = open_clip.create_model_and_transforms(model_name)
    return Peer(clip), transform, open_clip.get_tokenizer(model_name)

models.TYPE2FUNC["mmclr"] = load
models.MODEL_TYPES.append("mmclr")
from clip_benchmark.cli import main
main()
"""


def main() -> int:
    """Print the table; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", help="a run, checkpoint or model folder (default: random weights of the icons preset)"
    )
    parser.add_argument("--data", default=PICTO, help="shards with json fields subgroup and tags")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        differences = compare(
            args.model or str(random_model(Path(scratch) / "model", args.data)), args.data, Path(scratch)
        )
    print(json.dumps({"agreement": max(differences)}))
    return 0 if max(differences) <= 1e-6 else 1


def compare(model: str, data: str, scratch: Path) -> list[float]:
    """Evaluate both ways; print the numbers side by side and return their differences."""
    path = peers.install("clip_benchmark", peers.CLIP_BENCHMARK)
    exported = scratch / "open_clip"
    open_clip.write(Source.open(model), exported)
    table, differences = Table(), []
    for column in ("set", "metric", "mmclr", "clip-benchmark", "difference"):
        table.add_column(column, no_wrap=True)
    for name, task, evalset in sets(data):
        root = layout.write(evalset, scratch / name, shards=8)
        ours, theirs = measure(model, root, task), peer_metrics(path, f"local-dir:{exported}", root, task, scratch)
        for metric, value in theirs.items():
            differences.append(abs(ours.metrics[metric] - value))
            table.add_row(name, metric, f"{ours.metrics[metric]:.7f}", f"{value:.7f}", f"{differences[-1]:.1e}")
    Console(width=110).print(table)
    return differences


def sets(data: str) -> list[tuple[str, str, EvalSet]]:
    """Return three sets of distinct images: of equal ones the peer's numbers depend on their order, ours do not."""
    groups = open_set(data, label="json:subgroup", templates=TEMPLATES)
    tags = open_set(data, label="json:tags", templates=TEMPLATES)
    captions, names = open_set(data), open_set(data, caption="json:name")
    first = {captions.read(i): i for i in reversed(range(len(captions)))}
    distinct = sorted(first.values())
    kept = (tags.labels.sum(0) >= COMMON).nonzero().flatten().tolist()
    tags = replace(tags, labels=tags.labels[:, kept], classnames=[tags.classnames[c] for c in kept])
    both = [[*long, f"{short[0]}, an icon"] for long, short in zip(captions.captions, names.captions)]
    chosen = [
        ("wds_groups", "zeroshot_classification", groups),
        ("wds_tags", "zeroshot_classification", tags),
        ("wds_captions", "zeroshot_retrieval", replace(captions, captions=both)),
    ]
    return [(name, task, evalset.subset(distinct, "equal image")) for name, task, evalset in chosen]


def measure(model: str, root: Path, task: str) -> Result:
    """Evaluate with mmclr."""
    embedder = Embedder.load(model, device="cpu", precision="float64")
    return (retrieval if task == "zeroshot_retrieval" else zero_shot).run(embedder, open_set(str(root)))


def peer_metrics(path: Path, model: str, root: Path, task: str, scratch: Path) -> dict[str, float]:
    """Evaluate with clip-benchmark."""
    out = scratch / f"{root.name}.json"
    arguments = [
        "eval",
        "--dataset",
        f"wds/{root.name}",
        "--dataset_root",
        str(root),
        "--task",
        task,
        "--model",
        model,
        "--pretrained",
        "",
        "--model_type",
        "mmclr",
        "--recall_k",
        "1",
        "5",
        "10",
        "--num_workers",
        "2",
        "--no_amp",
        "--output",
        str(out),
    ]
    peers.python(PEER, *arguments, path=path)
    return json.loads(out.read_text())["metrics"]


def random_model(folder: Path, data: str) -> Path:
    """Write a model whose answers differ from image to image: the icons preset, its embeddings made louder."""
    captions = [text for texts in open_set(data).captions for text in texts]
    tokenizer = Tokenizer.train(captions, 2000, context=16)
    config = with_tokenizer(
        check(ModelConfig, {"preset": "icons"}),
        tokenizer.vocab_size,
        tokenizer.bos_id,
        tokenizer.eos_id,
        tokenizer.pad_id,
    )
    torch.manual_seed(0)
    model = TwoTower(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embedding" in name:
                weight.mul_(20)
    model.save(folder)
    tokenizer.save(folder)
    return folder


if __name__ == "__main__":
    sys.exit(main())
