"""Evaluation side by side with the peers, in one process and one thread, interleaved, medians. Last line: JSON.

classifier_speedup   100 ImageNet classes x 80 templates, against open_clip's build_zero_shot_classifier
recall_speedup       recall@1,5,10 both ways, 5,000 images x 25,000 captions, against clip_benchmark's recall_at_k
cached_second_suite  zero-shot after retrieval on the same images, against zero-shot with nothing embedded yet
agreement            largest difference to clip-benchmark 1.6.2 (see cross_check.py)
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cross_check
import open_clip
import peers
import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.metrics import classifier
from mmclr.eval.metrics.ranking import Relevance, rank_both
from mmclr.eval.sets.sources import open_set
from mmclr.eval.suites.classification import zero_shot
from mmclr.eval.suites.retrieval import retrieval

from mmclr.config import check
from mmclr.data.samples.text import Tokenizer
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower, with_tokenizer

TEXT = {"width": 256, "heads": 4, "layers": 4}  # a third of CLIP: the peer takes minutes, not an hour
VISION = {"layers": 1, "width": 64, "patch_size": 32, "image_size": 64}
ROUNDS = 3


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ratio(slow: Callable[[], object], fast: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the median over rounds of slow / fast, the two timed in turn."""
    pairs = [(seconds(slow), seconds(fast)) for _ in range(rounds)]
    for a, b in pairs:
        print(f"  {a:8.3f} s against {b:.3f} s: {a / b:.1f}", flush=True)
    return statistics.median(a / b for a, b in pairs)


def classifier_speedup() -> float:
    """Build one classifier both ways, from towers of the same shape."""
    names, templates = open_clip.IMAGENET_CLASSNAMES[:100], open_clip.OPENAI_IMAGENET_TEMPLATES
    text = {"context_length": 77, "vocab_size": 49408, **TEXT}
    theirs = open_clip.model.CLIP(embed_dim=256, vision_cfg=VISION, text_cfg=text).eval()
    theirs_words = open_clip.SimpleTokenizer()
    tokenizer = Tokenizer.load("clip")
    tree = {
        "embed": 256,
        "image": {"size": 64, "patch": 32, "width": 64, "layers": 1, "heads": 1, "mlp": 256},
        "text": {**TEXT, "mlp": 4 * TEXT["width"]},
    }
    ours = TwoTower(
        with_tokenizer(
            check(ModelConfig, tree), tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id
        )
    )
    slots = [template("{c}") for template in templates]
    return ratio(
        lambda: open_clip.build_zero_shot_classifier(theirs, theirs_words, names, templates, device="cpu"),
        lambda: classifier.build(Embedder("ours", ours, tokenizer), names, slots),
        rounds=2,
    )


def recall_speedup(images: int = 5_000, captions: int = 25_000, width: int = 256) -> float:
    """Rank random embeddings both ways; both sides start from embeddings and end at six numbers."""
    sys.path.insert(0, str(peers.install("clip_benchmark", peers.CLIP_BENCHMARK)))
    from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k

    sys.path.pop(0)
    g = torch.Generator().manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(n, width, generator=g), dim=1) for n in (images, captions))
    owner = torch.arange(captions) // (captions // images)

    def theirs() -> list[float]:
        scores = text @ image.T
        right = torch.zeros_like(scores, dtype=torch.bool)
        right[torch.arange(captions), owner] = True
        both = ((scores, right), (scores.T, right.T))
        return [
            float((batchify(recall_at_k, s, r, 64, "cpu", k=k) > 0).float().mean()) for k in (1, 5, 10) for s, r in both
        ]

    def ours() -> list[float]:
        ranks = rank_both(text, image, Relevance(torch.arange(captions), owner))
        return [float(side.hits(k).mean()) for k in (1, 5, 10) for side in ranks]

    difference = max(abs(a - b) for a, b in zip(theirs(), ours()))
    print(f"  largest difference of the six numbers: {difference:.1e}")
    before = [seconds(ours) for _ in range(3)]
    slow = seconds(theirs)  # minutes: once, with ours around it
    fast = statistics.median([*before, *(seconds(ours) for _ in range(3))])
    print(f"  {slow:8.3f} s against {fast:.3f} s: {slow / fast:.1f}")
    return slow / fast


def cached_second_suite() -> float:
    """Run zero-shot classification with and without what retrieval has left in the store, each in a new Embedder."""
    with tempfile.TemporaryDirectory() as scratch:
        model = str(cross_check.random_model(Path(scratch) / "model", cross_check.PICTO))
        captions, classes = open_set(cross_check.PICTO), open_set(cross_check.PICTO, label="json:subgroup")

        def second(cache: Path | None) -> Callable[[], object]:
            embedder = Embedder.load(model, device="cpu", cache=cache, workers=1)
            return lambda: zero_shot.run(embedder, classes)

        cache = Path(scratch) / "cache"
        retrieval.run(Embedder.load(model, device="cpu", cache=cache, workers=1), captions)
        rounds = [ratio(second(None), second(cache), rounds=1) for _ in range(ROUNDS)]
        return statistics.median(rounds)


def agreement() -> float:
    """Return the largest difference to the peer's numbers."""
    with tempfile.TemporaryDirectory() as scratch:
        model = str(cross_check.random_model(Path(scratch) / "model", cross_check.PICTO))
        return max(cross_check.compare(model, cross_check.PICTO, Path(scratch)))


def main() -> None:
    """Measure everything; a name given on the command line measures that alone."""
    torch.set_num_threads(1)
    measures = {f.__name__: f for f in (classifier_speedup, recall_speedup, cached_second_suite, agreement)}
    out = {}
    for name in sys.argv[1:] or measures:
        print(name, flush=True)
        out[name] = measures[name]()
    print(json.dumps({name: float(f"{value:.4g}") for name, value in out.items()}))


if __name__ == "__main__":
    main()
