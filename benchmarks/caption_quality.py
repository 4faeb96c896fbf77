"""What captions cost and give: one recipe with and without the objective `caption`, on picto. Last line: JSON.

Both runs see the same pairs in the same order, in three drawing styles; both are tested on the fourth, which neither
has seen. A caption is a name, a colon, and tags; what stands before the colon names the image.

retrieval_kept        recall@10 of images for captions, with the objective / without; `within` says whether the
                      first lies within the 95 % interval of the second
name_accuracy         share of images whose caption begins with exactly their name; also without countries' flags
name_prior            the same for the most frequent name of the training set
name_blind            the same for what the model wrote about another image: names as frequent, and nothing seen
cider, cider_blind    CIDEr of whole captions, of the right and of another image

    python benchmarks/caption_quality.py [SHARDS_FOLDER [OUT_FOLDER]]      about 20 minutes on one quiet thread
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import peers
from mmclr.eval.commands.compare import compare
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.result import Result
from mmclr.eval.sets.sources import open_set
from mmclr.eval.suites.retrieval import caption, retrieval

from mmclr.models.captioning.decoding import Decoding
from mmclr.models.captioning.generate import Writer

STEPS = 500
RECIPE = ["model.text.context=32", "model.image.size=64", "model.image.patch=16", f"steps={STEPS}", "log_every=50"]
ARMS = {
    "contrastive": [],
    "joint": ["model.captioner={layers: 1}", "objectives.caption={weight: 1.0}"],
}


def mmclr(*arguments: object) -> None:
    """Run a command of mmclr on one thread."""
    command = [sys.executable, "-W", "ignore", "-m", "mmclr.cli", *map(str, arguments)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def train(shards: Path, out: Path) -> dict[str, Embedder]:
    """Train both runs, or take them where they are trained."""
    urls = f"{shards}/train-{{00000..00009}}.tar"
    if not (out / "tokenizer").is_dir():
        mmclr("data", "tokenizer", urls, out / "tokenizer", "--size", 2000, "--context", 32)
    for name, changes in ARMS.items():
        given = [f"data.train={urls}", f"tokenizer={out / 'tokenizer'}", f"out={out / name}"]
        if not (out / name / "checkpoints" / f"step-{STEPS:08}").is_dir():
            mmclr("train", "demo.yaml", *given, *RECIPE, *changes)
    return {name: Embedder.load(str(out / name)) for name in ARMS}


def report_retrieval(found: dict[str, Result]) -> dict[str, float]:
    """Print both runs' recalls and their paired differences."""
    for result in found.values():
        result.show()
    for d in compare(found["contrastive"], found["joint"]):
        low, high = d.interval or (0.0, 0.0)
        print(f"{d.metric}: {d.difference:+.4f} ({low:+.4f} to {high:+.4f})")
    name = "image_retrieval_recall@10"
    first, second = (found[arm].metrics[name] or 0.0 for arm in ARMS)
    interval = found["contrastive"].ci95[name] or [0.0, 0.0]
    return {"retrieval_kept": second / first, "within": float(second >= interval[0])}


def names_of(urls: str) -> list[str]:
    """Return the names of a set's images."""
    return [name.lower() for (name,) in open_set(urls, caption="json:name").captions]


def named(captions: Sequence[str], names: Sequence[str]) -> Measurement:
    """Whether a caption begins with the image's name and a colon."""
    return Measurement(np.array([c.startswith(f"{name}:") for c, name in zip(captions, names)]), unit="images")


def main() -> None:
    """Train both, measure both."""
    shards = Path(sys.argv[1]) if sys.argv[1:] else peers.PICTO
    out = Path((sys.argv[2:] or ["runs/caption_quality"])[0])
    models = train(shards, out)
    data = open_set(f"{shards}/test-{{00000..00003}}.tar")
    numbers = report_retrieval({name: retrieval.run(model, data) for name, model in models.items()})

    caption.run(models["joint"], data).show()
    written = caption.write(models["joint"], Writer(models["joint"].model), data, Decoding())[0]
    other = written[len(written) // 2 :] + written[: len(written) // 2]
    names, trained = (names_of(f"{shards}/{part}.tar") for part in ("test-{00000..00003}", "train-{00000..00009}"))
    common = Counter(trained).most_common(1)[0][0]
    print(f"of {len(names)} images {sum(name in set(trained) for name in names)} have a name that was in training")
    said = {
        "accuracy": named(written, names),
        "prior": named([f"{common}:"] * len(names), names),
        "blind": named(other, names),
    }
    drawn = [not name.startswith("flag:") for name in names]  # flags of countries: one in seven
    said["accuracy_without_flags"] = Measurement(said["accuracy"].values[drawn], unit="images")
    for name, measurement in said.items():
        print(f"name_{name}: {measurement.mean:.4f} {measurement.interval()}")
        numbers[f"name_{name}"] = measurement.mean
    for name, captions in {"cider": written, "cider_blind": other}.items():
        cider = caption.compare(captions, data.captions)["CIDEr"]
        print(f"{name}: {cider.mean:.4f} {cider.interval()}")
        numbers[name] = cider.mean
    print(json.dumps({name: float(f"{value:.4g}") for name, value in numbers.items()}))


if __name__ == "__main__":
    main()
