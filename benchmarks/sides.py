"""Both sides of the step's benchmark: open_clip's trainer and ours, on the same weights and the same batches.

Each works in a process of its own, as its trainer does: what one does with its heap is of no use to the other.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import open_clip
import torch
from accelerate import Accelerator
from torch import Tensor

from mmclr.config import check
from mmclr.data.stream.batch import Batch
from mmclr.features.student import Student
from mmclr.losses.weighted_sum import build_terms
from mmclr.models.config import ModelConfig
from mmclr.models.formats.open_clip import write_config
from mmclr.models.formats.open_clip_weights import from_open_clip
from mmclr.models.two_tower import TwoTower
from mmclr.runtime.allocator import keep_freed_memory
from mmclr.train import gradient_cache
from mmclr.train.optimizer import OptimConfig, build
from mmclr.train.step import Step
from mmclr.train.strategies import Plain

TOWER = {"width": 192, "layers": 6, "heads": 3, "mlp": 768}
OURS = {"embed": 512, "image": {"size": 64, "patch": 8, **TOWER},
        "text": {"context": 77, "vocab": 49408, "bos": 49406, "eos": 49407, "pad": 49407, **TOWER}}  # fmt: skip
THEIRS = write_config(check(ModelConfig, OURS), bias=False)["model_cfg"]
LR = 1e-4


def captions(b: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw token ids [b, 77] and lengths [b]."""
    lengths = np.clip(rng.gamma(4, 3.5, b).round().astype(int) + 2, 4, 77)
    tokens = torch.zeros(b, 77, dtype=torch.long)
    for row, length in zip(tokens, lengths):
        row[0], row[length - 1] = 49406, 49407
        row[1 : length - 1] = torch.from_numpy(rng.integers(1, 49000, length - 2))
    return tokens, torch.from_numpy(lengths)


def make_batch(b: int, seed: int) -> Batch:
    """Draw a batch; its texts are padded to the longest of it."""
    rng = np.random.default_rng(seed)
    tokens, lengths = captions(b, rng)
    ids = torch.arange(b)
    pixels = torch.from_numpy(rng.integers(0, 256, (b, 3, 64, 64), dtype=np.uint8))
    return Batch(
        pixels=pixels,
        tokens=tokens[:, : int(lengths.max())],
        lengths=lengths,
        image_id=ids,
        caption_id=ids,
        index=ids,
        fields={"label": ids, "weights": torch.ones(b)},
        keys=[""] * b,
    )


class Peer:
    """open_clip's model, loss and AdamW, as its trainer makes and uses them."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = open_clip.model.CLIP(**THEIRS).train()
        self.loss = open_clip.loss.ClipLoss()
        named = dict(self.model.named_parameters())
        still = [p for n, p in named.items() if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "scale" in n]
        rest = [p for p in named.values() if all(p is not s for s in still)]
        groups = [{"params": still, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.2}]
        self.optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.98), eps=1e-6)

    def prepare(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What its loader hands over: normalised pixels, ids padded to 77."""
        pad = torch.nn.functional.pad(batch.tokens, (0, 77 - batch.tokens.shape[1]))
        return TwoTower.normalise(MODEL, batch.pixels), pad

    def backward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Forward, loss and backward."""
        out = self.model(*inputs)
        loss = self.loss(*out[:3])
        loss.backward()
        return loss

    def step(self, inputs: tuple[Tensor, Tensor]) -> None:
        """One step of its trainer."""
        self.optimizer.zero_grad()
        self.backward(inputs)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, float(np.log(100)))


class Ours:
    """The trainer's step on the peer's weights."""

    def __init__(self, peer: Peer, precision: torch.dtype | None = None) -> None:
        self.model = TwoTower(MODEL.config)
        self.model.load_state_dict(from_open_clip(peer.model.state_dict(), MODEL.config, ""))
        step = Step({"student": Student(self.model)}, build_terms({"clip": {"duplicates": "negative"}})).train()
        step.precision = precision
        config = OptimConfig(lr=LR, weight_decay=0.2, clip_norm=None)
        self.strategy = Plain(Accelerator(cpu=True), step, lambda module: build(config, module), None)

    def prepare(self, batch: Batch) -> Batch:
        """Our loader hands over uint8 pixels and texts padded to the longest."""
        return batch

    def backward(self, batch: Batch, micro: int = 0) -> Tensor:
        """Forward, loss and backward."""
        if micro:
            return gradient_cache.backward(self.strategy, batch, 0.0, micro, lambda: torch.manual_seed(0))[0]
        loss, _ = self.strategy.wrapped(batch, 0.0)
        self.strategy.backward(loss)
        return loss

    def step(self, batch: Batch, micro: int = 0) -> None:
        """One step of the trainer."""
        self.backward(batch, micro)
        norm = self.strategy.norm()
        assert bool(torch.isfinite(norm))
        self.strategy.update(norm)


def _text(peer: Peer) -> Callable[[Any], None]:
    return lambda inputs: peer.model.encode_text(inputs[1]).sum().backward()


def _our_text(model: TwoTower) -> Callable[[Batch], None]:
    return lambda batch: model.text_projection(model.text_model(batch.tokens, batch.lengths)).sum().backward()


def _make(name: str) -> tuple[Peer | Ours, Callable[[Any], None]]:
    """Return a side, and what of its work is timed."""
    peer = Peer()
    if name.startswith("open_clip"):
        return peer, _text(peer) if name == "open_clip text" else peer.step
    keep_freed_memory()  # as `mmclr train` does
    ours = Ours(peer, torch.bfloat16 if name == "mmclr bf16" else None)
    if name == "mmclr text":
        return ours, _our_text(ours.model)
    if name == "mmclr in 8 parts":
        return ours, lambda batch: ours.step(batch, len(batch.keys) // 8)
    return ours, ours.step


def _serve(name: str, line: Connection) -> None:
    """Answer each (b, seed) with the CPU seconds of one run on that batch."""
    torch.set_num_threads(1)
    side, run = _make(name)
    while (asked := line.recv()) is not None:
        inputs: Any = side.prepare(make_batch(*asked))  # type: ignore[arg-type]
        start = time.process_time()
        run(inputs)
        line.send(time.process_time() - start)


def race(names: tuple[str, ...], sizes: dict[int, int], warm: int = 3) -> dict[int, dict[str, list[float]]]:
    """CPU seconds by size of the batch and name, {size: rounds}, in turns; every size's first rounds warm up."""
    context = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    for name in names:
        lines[name], theirs = context.Pipe()
        context.Process(target=_serve, args=(name, theirs), daemon=True).start()
        theirs.close()  # so that a side that dies is an error here, not a wait
    times: dict[int, dict[str, list[float]]] = {b: {name: [] for name in names} for b in sizes}
    for b, rounds in sizes.items():
        for number in range(warm + rounds):
            for name, line in lines.items():
                line.send((b, number))
                seconds = line.recv()
                if number >= warm:
                    times[b][name].append(seconds)
    for line in lines.values():
        line.send(None)
    return times


MODEL = TwoTower(check(ModelConfig, OURS))  # for its config and normalisation
