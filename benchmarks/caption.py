"""Captions: decoding with a cache against recomputing, and the loss in chunks against whole logits. Last line: JSON.

decode_speedup              captions of 30 tokens of encoded images, greedy: generate(use_cache=False) / with cache
decode_speedup_beams        the same with four beams
generate_speedup            the same as the first, the image encoder included, which both run once
caption_loss_memory_ratio   peak of forward and backward, B = 256, 32 tokens, 49,408 words: whole logits / ours
caption_loss_speedup        time of the same at B = 32
caption_loss_difference     largest relative difference of value and gradients between the two
coca_loss_difference        largest relative difference of value and gradients to open_clip's CoCaLoss, with padding
caption_score_difference    largest difference of BLEU-4, ROUGE-L and CIDEr to pycocoevalcap 1.2, on random texts

One thread, CPU time; implementations take turns and a ratio is the median over rounds. open_clip's CoCa, the peer,
cannot generate with transformers 5 and has no cache where it can; recomputing is what its `generate` does.

    python benchmarks/caption.py [NAME ...]
"""

from __future__ import annotations

import copy
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import torch
from mmclr.eval.metrics import caption_scores
from torch import Tensor
from torch.nn import functional as F

from mmclr.config import check
from mmclr.losses import build
from mmclr.models.captioning.generate import to_generate
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower

TOKENS, WORDS, WIDTH, ROUNDS = 30, 49408, 512, 3
TREE = {
    "embed": 512,
    "image": {"size": 224, "patch": 16, "width": 384, "layers": 6, "heads": 6, "mlp": 1536},
    "text": {"width": 512, "heads": 8, "layers": 4, "mlp": 2048, "vocab": WORDS, "bos": 49406, "eos": 49407},
    "captioner": {"layers": 4},
}


def seconds(work: Callable[[], Any]) -> float:
    """Return how long `work` takes on one thread, other work on the machine left out."""
    began = time.process_time()
    work()
    return time.process_time() - began


def ratio(slow: Callable[[], Any], fast: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Return the median over rounds of slow / fast, timed in turn."""
    fast()
    pairs = [(seconds(slow), seconds(fast)) for _ in range(rounds)]
    for a, b in pairs:
        print(f"  {a:8.2f} s against {b:.2f} s: {a / b:.2f}", flush=True)
    return statistics.median(a / b for a, b in pairs)


def decode_speedup(images: int = 16, beams: int = 1, encoded: bool = True) -> float:
    """Write captions of exactly 30 tokens both ways; they must be the same."""
    torch.manual_seed(0)
    peer, pixels = to_generate(TwoTower(check(ModelConfig, TREE))), torch.randn(images, 3, 224, 224)
    with torch.no_grad():
        seen = peer.get_encoder()(pixels)
    how = {"max_length": TOKENS + 1, "min_length": TOKENS + 1, "num_beams": beams}

    def write(use_cache: bool) -> Tensor:
        given = {"encoder_outputs": copy.copy(seen)} if encoded else {"pixel_values": pixels}
        return peer.generate(**given, **how, use_cache=use_cache)

    assert torch.equal(write(True), write(False))
    return ratio(lambda: write(False), lambda: write(True))


def decode_speedup_beams() -> float:
    """With four beams."""
    return decode_speedup(images=4, beams=4)


def generate_speedup() -> float:
    """From pixels."""
    return decode_speedup(encoded=False)


def inputs(b: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return states [b, 1, 32, W] and words [N, W], which want gradients, and targets."""
    g = torch.Generator().manual_seed(0)
    states = torch.randn(b, 1, 32, WIDTH, generator=g).requires_grad_()
    words = (0.05 * torch.randn(WORDS, WIDTH, generator=g)).requires_grad_()
    return states, words, torch.randint(0, WORDS, (b, 1, 32), generator=g)


def whole(states: Tensor, words: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over all logits at once, as open_clip's CoCaLoss."""
    return F.cross_entropy((states @ words.T).flatten(0, 2), targets.flatten())


def chunked(states: Tensor, words: Tensor, targets: Tensor) -> Tensor:
    """Ours."""
    shares = torch.full(targets.shape, 1 / targets.numel())
    given = {"caption_states": states, "caption_words": words, "caption_targets": targets, "caption_shares": shares}
    return build("caption", {})(**given)


LOSSES = {"whole": whole, "chunked": chunked}


def peak(name: str) -> float:
    """Return the peak of one forward and backward beyond inputs and their gradients, MiB; in a process of its own."""
    given = inputs(256)
    LOSSES[name](*inputs(1)).backward()  # libraries' own buffers
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    LOSSES[name](*given).backward()
    return (_status("VmHWM") - before) / 1024 - sum(x.nbytes for x in given[:2]) / 2**20


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def caption_loss_memory_ratio() -> float:
    """Each in a process of its own."""
    found = {}
    for name in LOSSES:
        command = [sys.executable, __file__, "--peak", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = float(done.stdout.splitlines()[-1])
        print(f"  {name}: {found[name]:.0f} MiB", flush=True)
    return found["whole"] / found["chunked"]


def caption_loss_speedup() -> float:
    """Forward and backward."""
    given = inputs(32)
    return ratio(lambda: whole(*given).backward(), lambda: chunked(*given).backward())


def caption_loss_difference() -> float:
    """Value and gradients."""
    given = inputs(32)
    found = []
    for loss in LOSSES.values():
        value = loss(*given)
        found.append([value.detach(), *torch.autograd.grad(value, given[:2])])
    return max(float((a - b).norm() / a.norm()) for a, b in zip(*found))


def coca_loss_difference(b: int = 16, length: int = 24, words: int = 1000, width: int = 64) -> float:
    """Captions of unequal length, padded with 0, which is no word here."""
    from open_clip.loss import CoCaLoss

    g = torch.Generator().manual_seed(0)
    states = torch.randn(b, length, width, generator=g, dtype=torch.float64).requires_grad_()
    vectors = torch.randn(words, width, generator=g, dtype=torch.float64).requires_grad_()
    labels = torch.randint(1, words, (b, length), generator=g)
    labels[torch.arange(length) >= torch.randint(1, length + 1, (b, 1), generator=g)] = 0
    image = F.normalize(torch.randn(b, width, generator=g, dtype=torch.float64), dim=1)
    _, theirs = CoCaLoss(1.0, 1.0, pad_id=0)(image, image, states @ vectors.T, labels, torch.tensor(10.0))
    told = labels != 0
    ours = build("caption", {})(
        caption_states=states[:, None],
        caption_words=vectors,
        caption_targets=labels.masked_fill(~told, -100)[:, None],
        caption_shares=(told.double() / told.sum())[:, None],
    )
    both = [[value, *torch.autograd.grad(value, (states, vectors))] for value in (theirs, ours)]
    return max(float((x - y).norm() / x.norm()) for x, y in zip(*both))


def caption_score_difference(corpora: int = 20) -> float:
    """Score random captions here and there."""
    sys.path.append(str(peers.install("clip_benchmark", peers.CLIP_BENCHMARK)))
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    differences = []
    for seed in range(corpora):
        references, found = _texts(random.Random(seed))
        theirs = (
            {i: [" ".join(text) for text in texts] for i, texts in enumerate(references)},
            {i: [" ".join(text)] for i, text in enumerate(found)},
        )
        bleu = Bleu(4).compute_score(*theirs, verbose=0)[0][3]
        pairs = [
            (bleu, caption_scores.bleu),
            (Rouge().compute_score(*theirs)[0], caption_scores.rouge_l),
            (Cider().compute_score(*theirs)[0], caption_scores.cider),
        ]
        differences += [abs(value - ours(found, references).mean) for value, ours in pairs]
    return max(differences)


def _texts(draw: random.Random) -> tuple[list[list[list[str]]], list[list[str]]]:
    """Return references and captions that share words with them."""
    vocabulary = [f"w{i}" for i in range(20)]
    references = [
        [draw.choices(vocabulary, k=draw.randint(3, 12)) for _ in range(draw.randint(1, 5))] for _ in range(50)
    ]
    found = [
        [w if draw.random() < 0.75 else draw.choice(vocabulary) for w in draw.choice(texts)] for texts in references
    ]
    return references, found


MEASURES = (decode_speedup, decode_speedup_beams, generate_speedup, caption_loss_memory_ratio, caption_loss_speedup,
            caption_loss_difference, coca_loss_difference, caption_score_difference)  # fmt: skip


def main() -> None:
    """Measure what is named, or everything."""
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--peak"]:
        return print(peak(sys.argv[2]))
    measures = {f.__name__: f for f in MEASURES}
    out = {}
    for name in sys.argv[1:] or measures:
        print(name, flush=True)
        out[name] = measures[name]()
    print(json.dumps({name: float(f"{value:.4g}") for name, value in out.items()}))
    return None


if __name__ == "__main__":
    main()
