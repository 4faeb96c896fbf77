"""The parts of a run, built once from its config: a trainer steps them, a dry run measures them, a checkpoint has them.

The order in which they are made decides which random numbers each of them draws, so a new part goes behind the others.
"""

from __future__ import annotations

from functools import partial

import torch
from accelerate import Accelerator

from mmclr import parallel
from mmclr.data.samples.field_readers import check_asked
from mmclr.data.samples.text import Tokenizer
from mmclr.data.stream.batch import Batch
from mmclr.data.stream.loader import Loader
from mmclr.errors import UserError
from mmclr.features.ema import Ema, asked
from mmclr.features.frozen import Frozen
from mmclr.features.provider import Provider, build_providers
from mmclr.features.student import Student
from mmclr.losses.objective import Facts
from mmclr.losses.weighted_sum import build_terms, needs
from mmclr.models import freeze, init
from mmclr.models.activation_checkpointing import recompute
from mmclr.models.compile import compile_blocks
from mmclr.models.config import ModelConfig
from mmclr.models.formats import find
from mmclr.models.two_tower import TwoTower, with_tokenizer
from mmclr.train import optimizer, strategies
from mmclr.train.averages import Average
from mmclr.train.checkpoints.capture import hollow
from mmclr.train.checkpoints.saver import Saver
from mmclr.train.logging.log import Display
from mmclr.train.nonfinite import Guard
from mmclr.train.run import RunConfig
from mmclr.train.step import MODEL, Step
from mmclr.train.strategies.loss_scale import LossScale


class Parts:
    """One run in one process (of several that all do the same on their share of each batch).

    Weights are random until `begin` or a checkpoint fills them; then `share` gives the step to a strategy.
    """

    strategy: strategies.Plain  # as of `share`
    average: Average | None

    def __init__(self, run: RunConfig, accelerator: Accelerator) -> None:
        run = run.resolved()
        self.run, self.accelerator = run, accelerator
        t = self.tokenizer = Tokenizer.load(run.tokenizer, run.model.text.context)
        terms, own = build_terms(run.objectives, run.micro_batch, bool(run.teacher)), build_providers(run.providers)
        wanted = needs(terms).union(*(provider.asks for provider in own.values()))
        check_asked(run.data, wanted)
        data, ranks = run.data.asked_alone(wanted), (parallel.rank(), parallel.world())
        self.loader = Loader(data, t, run.model.image, run.seed, *ranks, data.texts)
        self.steps = run.total_steps(self.loader.samples)
        torch.manual_seed(run.seed)
        config = with_tokenizer(run.model, t.vocab_size, t.bos_id, t.eos_id, t.pad_id)
        self.model = TwoTower(config, bias="bias" in wanted)
        self.shell = hollow(self.model)
        sets, several = data.pixel_sets(), run.data.image_slots() > 1
        sources = len(run.data.text_sources)
        self.student = Student(self.model, run.patch_dropout.first, sets, run.data.text_views, several, sources)
        providers: dict[str, Provider] = {}
        if run.teacher:  # before the student, which else stands in for it
            providers["frozen"] = Frozen(run.teacher, t, run.model.image, sets)
        providers["student"] = self.student
        if asked(wanted):
            providers["ema"] = Ema(self.student, wanted)
        self.step = Step({**providers, **own}, terms)
        self.step.setup(self.model, self.facts())
        self.step.freeze_unasked()
        self.kind = precision(run.precision)
        self.step.precision = None if self.kind == torch.float32 else self.kind
        self.display = Display(self.steps, 0, quiet=True)
        self.guard = Guard(run.guard, run.folder / "bad")
        self.saver = Saver(run.save, run.folder, accelerator)
        self.taken = 0  # steps so far
        self.threads = 0  # that compute them; 0: not known yet
        self.batch: Batch | None = None  # the last
        self.stopped = ""  # by which signal, before the last step

    def facts(self) -> Facts:
        """Return what objectives and providers may need to size their state."""
        return Facts(
            samples=self.loader.samples,
            width=self.model.config.embed,
            steps=self.steps,
            batch=self.run.data.batch,
            clusters=self.loader.cluster_count,
            classes=self.loader.classes("label"),
            class_counts=tuple(self.loader.class_counts("label")),
            tower=self.model.config.image.width,
            turns=self.run.data.turns(),
            sources=len(self.run.data.sources()),
            text_sources=len(self.run.data.text_sources),
        )

    def begin(self, anew: bool) -> None:
        """Give the model its first weights (unless it goes on from a checkpoint), and lock what the run locks."""
        if anew:
            check_tokenizer(self.model.config, self.run, self.tokenizer)
            init.start(self.model, self.run.init)
        init.freeze_unread(self.model)
        freeze.lock(self.model, self.run.lock)

    def share(self) -> None:
        """Give the step to a strategy, which shares its weights out among processes; make optimizer and average."""
        run = self.run
        if run.activation_checkpointing:
            recompute(self.model)
        if run.compile:
            compile_blocks(self.model)
        scale = LossScale() if self.kind == torch.float16 else None
        build = partial(optimizer.build, run.optim)
        self.strategy = strategies.choose(self.accelerator, self.step, build, run.optim.clip_norm, scale)
        names = [name for name in self.strategy.parameters if name.startswith(MODEL)]
        self.average = Average(self.strategy, names, run.average.decay) if run.average.decay else None

    def seed(self) -> None:
        """Seed the step's randomness: the same on every rank, in every micro-batch, and after a resume."""
        torch.manual_seed(self.run.seed * 1_000_003 + self.taken)


def check_tokenizer(config: ModelConfig, run: RunConfig, tokenizer: Tokenizer) -> None:
    """Refuse a trained text tower with another vocabulary than its own."""
    own = config.text.foreign
    source = run.init.source if run.init.parts != "image" else ""
    if not source and own is not None and own.trained:
        source = own.source
    if not source or source == run.tokenizer:
        return
    folder = find.find(source)
    if Tokenizer.load(folder).backend.get_vocab() != tokenizer.backend.get_vocab():
        raise UserError(
            f"tokenizer: {run.tokenizer} has another vocabulary than the text tower of {source}, which would read "
            f"nonsense; set tokenizer={folder}"
        )


def precision(wanted: str) -> torch.dtype:
    """Return the type that towers compute in; auto is bf16 on a GPU that has it and float32 elsewhere."""
    if wanted == "auto":
        wanted = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"
    if wanted == "fp16" and not torch.cuda.is_available():
        raise UserError("precision: fp16 needs a GPU; write precision: float32 (or auto)")
    return {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]
