"""A batch in micro-batches against the same batch at once: every parameter's gradient, for every objective."""

import pytest
import torch
from accelerate import Accelerator

from mmclr import parallel
from mmclr.config import check
from mmclr.data.pixels.copies.frequency import Blurred, Sharpened
from mmclr.data.pixels.copies.turned import Turned
from mmclr.data.stream.batch import Batch
from mmclr.features.ema import Ema
from mmclr.features.frozen import Frozen
from mmclr.features.provider import Provider
from mmclr.features.student import Student
from mmclr.losses import catalogue
from mmclr.losses.objective import Facts
from mmclr.losses.weighted_sum import build_terms, needs
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower, with_tokenizer
from mmclr.train import gradient_cache
from mmclr.train.step import Step
from mmclr.train.strategies import Plain
from tests import bounds
from tests.ranks import run

TREE = {
    "preset": "icons",
    "embed": 12,
    "image": {"width": 16, "layers": 2, "heads": 2, "mlp": 24},
    "text": {"width": 16, "layers": 2, "heads": 2, "mlp": 24},
    "captioner": {"layers": 1, "queries": 3, "tied": False},
}

MADE = {"sharpened": Sharpened(2, (1.0, 3.0)), "blurred": Blurred(1, (4.0, 16.0)), "turned": Turned(1, "rotation")}
LOADED = {"views": 2, "strong_views": 1, "local_views": 2, "companion": 1, "generated": 1}
SETS = [*LOADED, *MADE]


def make_batch(b=10, captions=1):
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 9, (b * captions,), generator=g)
    return Batch(
        pixels=torch.randint(0, 256, (b, 3, 32, 32), generator=g, dtype=torch.uint8),
        tokens=torch.randint(0, 90, (b * captions, 8), generator=g),
        lengths=lengths,
        image_id=torch.arange(b),
        caption_id=torch.arange(b) // 2,
        index=torch.arange(b) + 100,
        fields={
            "label": torch.arange(b) % 3,
            "clusters": torch.randint(-1, 9, (b, 3), generator=g),
            "weights": torch.rand(b, generator=g) + 0.5,
            "replayed": torch.arange(b) % 2 == 0,
            "target": torch.where(torch.arange(b) == 4, torch.nan, torch.rand(b, generator=g)),
            "domain": torch.arange(b) % 4 - 1,
            "group": torch.arange(b) // 3 - 1,
            "origin": torch.arange(b) % 2,
            "tags": torch.stack([torch.arange(b) % 3, torch.arange(b) % 4 + 3, torch.arange(b) % 2 * 8 - 1], 1),
        },
        keys=[str(i) for i in range(b)],
        sets={n: torch.randint(0, 256, (b, c, 3, 32, 32), generator=g, dtype=torch.uint8) for n, c in LOADED.items()},
        made=MADE,
        draws=torch.randint(1 << 62, (b,), generator=torch.Generator().manual_seed(1)),
        view_boxes=torch.tensor([0.0, 0, 0.6, 0.6, 0.3, 0.3, 1, 1]).view(1, 2, 4).repeat(b, 1, 1),
        text_view_tokens=torch.randint(0, 90, (b, 2, 8), generator=g),
        text_view_lengths=torch.randint(2, 9, (b, 2), generator=g),
        text_source_tokens=torch.randint(0, 90, (b, 2, 8), generator=g),
        text_source_lengths=torch.randint(2, 9, (b, 2), generator=g),
        has_text=torch.arange(b)[:, None] % torch.tensor([4, 3]) > 0,
    )


class Earlier(Frozen):
    """A frozen model with other weights."""

    provides = frozenset({"frozen_image", "frozen_text"})

    def __init__(self, model):
        Provider.__init__(self)
        self.model, self.same_tokens, self.image_size = model.requires_grad_(False), True, 32


def make_step(objectives, captions):
    torch.manual_seed(0)
    model = TwoTower(with_tokenizer(check(ModelConfig, TREE), 90, 1, 2, 2), bias=True).double()
    student, terms = Student(model, patch_dropout=0.4, sets=SETS, text_views=2, text_sources=2), build_terms(objectives)
    providers = {"student": student, "ema": Ema(student, needs(terms))}
    teachers = any(term.objective.needs_teacher or term.objective.key == "conr" for term in terms.values())
    if teachers:  # itself would not do
        providers = {"frozen": Earlier(TwoTower(model.config).double()), **providers}
    step = Step(providers, terms)
    step.setup(model, Facts.example(samples=200, width=12, steps=10, batch=10, clusters=9, tower=16))
    step.freeze_unasked()
    return step.double().train()


def plain(step):
    return Plain(Accelerator(), step, lambda module: torch.optim.SGD(module.parameters(), 0.1), None)


def with_blanks(batch, at):
    """Return the batch with blank rows at the places `at`: what they show is noise, and the first has a number."""
    b, captions = len(batch.weights), len(batch.lengths) // len(batch.weights)
    order = torch.full((b + len(at),), -1)
    order[[place for place in range(len(order)) if place not in at]] = torch.arange(b)
    blank, texts = order < 0, (order[:, None] * captions + torch.arange(captions)).flatten()
    more = {name: x[texts if name in ("tokens", "lengths") else order] for name, x in batch.tensors().items()}
    for name in ("image_id", "caption_id", "label", "index", "clusters"):
        more[name][blank] = -1
    more["index"][at[0]] = 77  # that of a skipped sample
    more["weights"][blank] = 0
    fields, sets = ({name: more.pop(name) for name in own} for own in (batch.fields, batch.sets))
    return Batch(
        **more, fields=fields, sets=sets, made=batch.made, keys=["" if n < 0 else batch.keys[n] for n in order.tolist()]
    )


def take(objectives, captions, size, blanks=()):
    """Return loss, terms, gradients and state after one step, whole (size 10) or in micro-batches."""
    batch = make_batch(captions=captions)
    batch = with_blanks(batch, blanks) if blanks else batch
    batch.fields["weights"] = batch.weights.double()
    step = make_step(objectives, captions)
    torch.manual_seed(5)
    if size >= 10:
        loss, terms = step(batch, 0.3)
        loss.backward()
    else:
        loss, terms = gradient_cache.backward(plain(step), batch, 0.3, size, lambda: torch.manual_seed(5))
    step.after_step()
    grads = {name: p.grad for name, p in step.named_parameters() if p.requires_grad}
    return loss.detach(), terms, grads, step.objectives.state_dict()


def compare(objectives, captions, size=3, blanks=()):
    """Compare a batch at once with the same in micro-batches, with patches dropped."""
    loss, terms, grads, state = take(objectives, captions, 10)
    loss_b, terms_b, grads_b, state_b = take(objectives, captions, size, blanks)
    torch.testing.assert_close(loss_b, loss, **bounds.near())
    torch.testing.assert_close(terms_b, terms, **bounds.near())
    assert any(g is not None and g.abs().sum() > 0 for g in grads.values())
    for name, gradient in grads.items():
        assert (gradient is None) == (grads_b[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(grads_b[name], gradient, rtol=1e-9, atol=1e-12, msg=name)
    for name, value in state.items():
        torch.testing.assert_close(state_b[name], value, rtol=1e-9, atol=1e-12)
    return grads


@pytest.mark.parametrize("key", catalogue())
def test_micro_batches_equal_the_whole(key):
    """Also the objective's state after it."""
    more = {"quantile": 0.3} if key == "conr" else {}  # captions of two models without training are all alike
    compare({"term": {"use": key, "weight": 0.7, **more}}, captions=2 if "texts" in catalogue()[key].needs else 1)


BLANK = ({"clip": {}, "uniformity": {}, "swav": {"prototypes": 6}, "caption": {}, "whitened_cse": {}},
         {"pixpro": {"out": 12}, "byolip": {"out": 8}, "swalip": {}, "supcon_label": {}, "cacr": {}},
         {"wscol": {"prototypes": 4, "head": {"use": "mlp", "hidden": 6, "out": 8}}, "ctvis": {},
          "cwcl": {}})  # fmt: skip


@pytest.mark.parametrize("size", [99, 3])
@pytest.mark.parametrize("objectives", BLANK, ids=["+".join(tree) for tree in BLANK])
def test_blank_rows_of_a_batch_change_nothing(objectives, size):
    """Weights of towers and heads, and all state: whole, and in micro-batches of which one has nothing else."""
    compare(objectives, 2, size, blanks=(1, 3, 4, 5, 12))


@pytest.mark.parametrize("wanted", [{"image", "texts"}, {"image", "text", "views", "text_views", "caption_states"}])
def test_a_batch_norm_does_not_see_blank_rows(wanted):
    """Neither the features of samples nor the running statistics are others with them."""
    found = []
    for blanks in ((), (0, 4, 5, 13)):
        step = make_step({"clip": {}, "caption": {}}, 2)
        student = step.providers["student"]
        bare = student.model.visual_projection
        student.model.visual_projection = torch.nn.Sequential(torch.nn.BatchNorm1d(bare.in_features), bare).double()
        student = Student(student.model, patch_dropout=0.4, sets=SETS, text_views=2).train()
        batch = make_batch(captions=2)
        batch = with_blanks(batch, blanks) if blanks else batch
        torch.manual_seed(5)
        seen = {name: x[batch.real] for name, x in student(batch, wanted, {}, 0.0).items()}
        found.append(seen | dict(student.model.visual_projection.named_buffers()))
    torch.testing.assert_close(found[1], found[0], **bounds.near())


@pytest.mark.parametrize("captions", [1, 2])
def test_captions_beside_a_contrast(captions):
    """What compares samples is scored once, what has a row per token in each micro-batch; both reach the towers."""
    grads = compare({"clip": {}, "caption": {"weight": 2.0, "label_smoothing": 0.1}}, captions)
    for part in ("vision_model", "visual_projection", "text_model", "captioner", "logit_scale"):
        assert any(part in name and g.abs().sum() > 0 for name, g in grads.items()), part


def test_what_gets_no_gradient_is_frozen():
    """DDP would wait for it: every weight that is left to train gets a gradient."""
    for objectives in ({"caption": {}}, {"clip": {}}, {"clip": {}, "caption": {}}):
        _, _, grads, _ = take(objectives, 1, 10)
        lacking = {name for name, gradient in grads.items() if gradient is None}
        assert lacking == {"providers.student.model.logit_bias"}  # which a run has only where an objective asks for it


VIEWED = {"image": "views.1", "text": "text_views.0"}
TOLD = {"use": "small_loss", "begin": 0.0, "gap": 0.0}
LATER = {"use": "where", "keep": "label >= 1"}


@pytest.mark.parametrize(
    "objectives",
    [
        {"clip": {"inputs": VIEWED, "reweight": [TOLD, LATER]}, "caption": {}},
        {"siglip": {"reweight": TOLD, "head": {"use": "mlp", "hidden": 6, "out": 8}}, "clip": {"reweight": LATER}},
    ],
    ids=["inputs", "head"],
)
@pytest.mark.parametrize("blanks", [(), (1, 3, 4, 5, 12)], ids=["full", "blanks"])
def test_options_of_terms_in_micro_batches(objectives, blanks):
    """Factors are those of the whole batch, whatever is in memory at once."""
    compare(objectives, 2, blanks=blanks)


def test_what_only_a_reweighter_asks_for_is_frozen():
    """No gradient goes there, so no process must wait for it; nor to what stands for a constant."""
    from mmclr.reweighters.reweighter import REWEIGHTERS, Reweighter

    class Near(Reweighter, key="near"):
        def forward(self, image, text):
            return (image * text).sum(1) + 1

    try:
        texts = {"image": "text_views.0", "text": "text_views.1"}
        terms = {"clip": {"inputs": texts, "reweight": {"use": "near"}}}
        _, _, grads, _ = take(terms, 1, 10)
    finally:
        del REWEIGHTERS["near"]
    assert {name for name, gradient in grads.items() if gradient is None} == {"providers.student.model.logit_bias"}
    assert not any("vision" in name or "visual" in name for name in grads)


def test_views_are_seen_the_same_whoever_asks():
    """What asks for tokens of views does not change the patches that are left out where others ask for the views."""
    grads = compare({"siamlip": {}, "pixpro": {"weight": 2.0, "out": 12}, "clip": {}}, 1)
    assert all(g.abs().sum() > 0 for name, g in grads.items() if "pixpro" in name or "vision_model" in name)


def test_split_keeps_every_row():
    batch = make_batch(captions=2)
    parts = batch.split(4)
    assert [len(p.weights) for p in parts] == [4, 4, 2]
    assert torch.equal(torch.cat([p.tokens for p in parts]), batch.tokens)
    assert torch.equal(torch.cat([p.index for p in parts]), batch.index)
    assert sum((p.keys for p in parts), []) == batch.keys


def under_ddp(objectives, at):
    """Two steps under DDP on this rank's half of a batch; the averaged gradients."""
    step = make_step(objectives, 2)
    step.providers["student"].model.logit_bias.requires_grad_(
        False
    )  # which a run has only where an objective asks for it
    wrapped = torch.nn.parallel.DistributedDataParallel(step)
    batch = with_blanks(make_batch(captions=2), at)
    batch.fields["weights"] = batch.weights.double()
    half = len(batch.weights) // 2
    for _ in range(2):  # DDP says in the second what had no gradient in the first
        step.zero_grad()
        torch.manual_seed(5)
        wrapped(batch.split(half)[parallel.rank()], 0.3)[0].backward()
    return {name: p.grad for name, p in step.named_parameters() if p.grad is not None}


@pytest.mark.dist
@pytest.mark.parametrize("objectives", BLANK, ids=["+".join(tree) for tree in BLANK])
def test_a_rank_of_blank_rows_alone_trains_along(objectives):
    """Every weight gets its gradient there, too, or DDP would wait for it."""
    expected = take(objectives, 2, 10)[2]
    for found in run(2, under_ddp, objectives, tuple(range(10, 20))):
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12, msg=name)
