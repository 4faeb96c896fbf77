"""Several images of one item, and what they are worth: the cuts of a font's icons as views of one thing with a name.

    python benchmarks/several_images.py [--out FOLDER] [--seeds 2] [--steps 150] [--pools mean]

Phosphor draws each of its names in five cuts. A model is trained on items of two of them (regular and light, both of
a step, pooled), and searched by name among items of the other three, which it never saw: bold, fill, thin. Beside one
cut each (the mean over the three), an item is all three, pooled. 716 of the 894 names are trained on, in two cuts; the
other 178 are held out, so their numbers are of names and cuts that are both new. Intervals are of the paired
difference, over names, seeds averaged. It needs the fonts of mmclr[demo], and no network.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from mmclr.data_tools.commands.convert import icons
from mmclr.data_tools.lib.shard_writer import ShardWriter
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.metrics.ranking import rank
from mmclr.eval.sets.sources import open_set
from mmclr.eval.suites.retrieval import retrieval

from mmclr.config import load
from mmclr.data.samples.text import Tokenizer
from mmclr.demo.training import train
from mmclr.train.run import RunConfig

SEEN, NEW = ("", "light"), ("bold", "fill", "thin")  # cuts
K = 10
SIZE = 32


def cuts() -> dict[str, dict[str, bytes]]:
    """Return {name: {cut: PNG}} of the names that have all five cuts."""
    family = next(family for family in icons.FAMILIES if family.key == "phosphor")
    found: dict[str, dict[str, bytes]] = defaultdict(dict)
    for icon, png in icons._draw(icons._fonts(), family, SIZE):
        begin, _, last = icon.name.rpartition("-")
        name, cut = (begin, last) if last in family.style_words else (icon.name, "")
        if png:
            found[name][cut] = png
    return {name: own for name, own in sorted(found.items()) if own.keys() == {*SEEN, *NEW}}


def write(folder: Path, items: dict[str, list[bytes]]) -> str:
    """Write a shard of items, several images each, as `mmclr data pack` does; return its URL."""
    with ShardWriter(folder, {"items": sorted(items)}, 10_000, 1 << 30) as writer:
        for at, (name, images) in enumerate(items.items(), 1):
            members = {f"{number}.png" if number else "png": png for number, png in enumerate(images)}
            fields = json.dumps({"name": name, "images": list(members)})
            writer.add(name, {**members, "txt": name.replace("-", " ").encode(), "json": fields.encode()}, at)
        writer.finish(len(items))
    return str(folder / "*.tar")


def hits(embedder: Embedder, url: str) -> np.ndarray:
    """Return which names find their own item among the first K, [names]."""
    data = open_set(url, image_members="json:images")
    embedded = embedder.pictures(data)
    texts, relevance = retrieval.queries(embedded.data, "caption")
    return rank(embedder.texts(texts), embedded.images, relevance).hits(K).numpy()


def measured(checkpoint: Path, urls: dict[str, dict[str, str]]) -> dict[str, dict[str, np.ndarray]]:
    """Return {names: {images of an item: hits}}."""
    embedder = Embedder.load(checkpoint)
    return {names: {what: hits(embedder, url) for what, url in own.items()} for names, own in urls.items()}


def told(found: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Return R@K of one cut and of three pooled, and of their difference, with 95 % intervals over names."""
    one = np.mean([np.mean([own[cut] for cut in NEW], 0) for own in found], 0)
    three = np.mean([own["three"] for own in found], 0)
    out: dict[str, Any] = {"names": len(one)}
    for name, values, share in (("one", one, True), ("three", three, True), ("more", three - one, False)):
        measurement = Measurement(values, unit="names", share=share)
        low, high = measurement.interval() or (None, None)
        out[name] = {f"recall@{K}": round(float(values.mean()), 4), "ci95": [round(low, 4), round(high, 4)]}
    out["seeds"] = [round(float(own["three"].mean() - np.mean([own[cut].mean() for cut in NEW])), 4) for own in found]
    return out


def main() -> None:
    """Pack, train, search, and print one line of JSON last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/several_images"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--pools", nargs="+", default=["mean"])
    args = parser.parse_args()
    drawn = cuts()
    names = list(drawn)
    random.Random(0).shuffle(names)
    held = set(names[: len(names) // 5])
    parts = {"trained": [n for n in drawn if n not in held], "held_out": [n for n in drawn if n in held]}
    out = args.out
    url = write(out / "train", {name: [drawn[name][cut] for cut in SEEN] for name in parts["trained"]})
    urls = {
        part: {
            "three": write(out / f"{part}-three", {name: [drawn[name][cut] for cut in NEW] for name in own}),
            **{cut: write(out / f"{part}-{cut}", {name: [drawn[name][cut]] for name in own}) for cut in NEW},
        }
        for part, own in parts.items()
    }
    if not (out / "tokenizer").is_dir():
        words = [name.replace("-", " ") for name in parts["trained"]]
        Tokenizer.train(words, size=1500, context=16).save(out / "tokenizer")
    results: dict[str, Any] = {}
    for pool in args.pools:
        found = []
        for seed in range(args.seeds):
            own = [f"data.train={url}", f"tokenizer={out / 'tokenizer'}", f"out={out / f'{pool}-{seed}'}"]
            own += ["data.images=json:images", "data.images_at_most=2", f"model.image_pool={pool}", "data.batch=128"]
            checkpoint = train(load(RunConfig, "demo.yaml", [*own, f"seed={seed}", f"steps={args.steps}"]))
            found.append(measured(checkpoint, urls))
            print(pool, seed, {part: told([found[-1][part]]) for part in parts}, flush=True)
        results[pool] = {part: told([each[part] for each in found]) for part in parts}
    settings = {"names": len(drawn), "trained_cuts": ["regular", "light"], "searched_cuts": list(NEW)}
    print(json.dumps({**settings, "seeds": args.seeds, "steps": args.steps, **results}))


if __name__ == "__main__":
    main()
