"""Training with several images of a sample: as a loop over samples says, in micro-batches, on ranks, resumed."""

import json

import pytest
import torch
from safetensors.torch import load_file

from mmclr import parallel
from mmclr.config import check
from mmclr.features import towers
from mmclr.features.ema import Ema
from mmclr.features.student import Student
from mmclr.losses.objective import Facts
from mmclr.losses.weighted_sum import build_terms, needs
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower, with_tokenizer
from mmclr.train import gradient_cache
from mmclr.train.step import Step
from tests import bounds
from tests.data import several
from tests.ranks import run
from tests.train.runs import finish, log, run_here, start
from tests.train.test_accumulate import TREE, make_batch, plain

KINDS = ["mean", "attention", "first"]
COUNTS = [1, 3, 2, 4, 1, 2, 3, 1, 4, 2]
OBJECTIVES = {"clip": {}, "simclr": {"use": "supcon", "inputs": {"text": "ema_image"}}}


def batch_of(counts=COUNTS, most=3):
    batch = make_batch()
    g = torch.Generator().manual_seed(3)
    batch.more = torch.randint(0, 256, (10, most, 3, 32, 32), generator=g, dtype=torch.uint8)
    batch.image_counts = torch.tensor(counts)
    batch.weights = batch.weights.double()
    return batch


def step_of(kind, patch_dropout=0.0, objectives=None, seed=0):
    torch.manual_seed(seed)
    config = with_tokenizer(check(ModelConfig, {**TREE, "captioner": None, "image_pool": kind}), 90, 1, 2, 2)
    model = TwoTower(config, bias=False).double()
    for p in model.image_pool.parameters():
        p.data.normal_()
    terms = build_terms(objectives or {"clip": {}})
    student = Student(model, patch_dropout=patch_dropout, sets={"views": 2}, text_views=2, several=True)
    providers = {"student": student}
    if any(name.startswith("ema_") for name in needs(terms)):
        providers["ema"] = Ema(student, needs(terms))
    step = Step(providers, terms)
    step.setup(model, Facts.example(samples=200, width=12, steps=10, batch=10, clusters=9))
    step.freeze_unasked()
    return step.double().train()


def taken(step, batch, size=0):
    """Return loss and gradients of one step, whole or in micro-batches."""
    torch.manual_seed(5)
    if size:
        loss, _ = gradient_cache.backward(plain(step), batch, 0.3, size, lambda: torch.manual_seed(5))
    else:
        loss, _ = step(batch, 0.3)
        loss.backward()
    return loss.detach(), {name: p.grad for name, p in step.named_parameters() if p.requires_grad}


def agree(found, expected):
    torch.testing.assert_close(found[0], expected[0], **bounds.near())
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_a_loop_over_samples_says(kind):
    step, batch = step_of(kind), batch_of()
    model = step.providers["student"].model
    seen = step.features(batch, 0.0, {"image", "views"})
    for row, count in enumerate(COUNTS):
        images = torch.cat([batch.pixels[row][None], batch.more[row, : count - 1]])
        alone = model.encode_image(model.normalise(images))
        expected = model.image_pool(alone[None], torch.tensor([count]))[0]
        torch.testing.assert_close(seen["image"][row], expected, **bounds.near())
    views = model.encode_image(model.normalise(batch.views.flatten(0, 1))).unflatten(0, (10, 2))
    torch.testing.assert_close(seen["views"], views, **bounds.near())


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_where_no_image_is_changes_nothing(kind):
    a, b = batch_of(), batch_of()
    for row, count in enumerate(COUNTS):
        b.more[row, count - 1 :] = 77
    agree(taken(step_of(kind), a), taken(step_of(kind), b))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [3, 1])
@pytest.mark.parametrize("patch_dropout", [0.0, 0.4])
def test_micro_batches_equal_the_whole(kind, size, patch_dropout):
    """Also those in which no sample has a second image."""
    agree(taken(step_of(kind, patch_dropout), batch_of(), size), taken(step_of(kind, patch_dropout), batch_of()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_samples_changes_nothing(kind):
    order = torch.tensor([3, 9, 0, 5, 1, 2, 8, 7, 6, 4])
    agree(taken(step_of(kind, 0.4), batch_of().take(order)), taken(step_of(kind, 0.4), batch_of()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("patch_dropout", [0.0, 0.4])
def test_one_image_each_is_as_without_any_of_it(kind, patch_dropout):
    """Loss and gradient to the bit, with three empty places beside each image; a learnt pool has a gradient of 0."""
    single = batch_of([1] * 10)
    alone = make_batch()
    alone.weights = alone.weights.double()
    found, expected = taken(step_of(kind, patch_dropout), single), taken(step_of(kind, patch_dropout), alone)
    assert torch.equal(found[0], expected[0])
    for name, gradient in expected[1].items():
        if "image_pool" not in name:
            assert torch.equal(found[1][name], gradient), name
    pool = [gradient for name, gradient in found[1].items() if "image_pool" in name]
    assert len(pool) == (2 if kind == "attention" else 0)
    assert not any(gradient.any() for gradient in pool)


def test_a_dropped_patch_is_another_of_each_image():
    """The same pixels in all places are seen through different patches."""
    step, batch = step_of("mean", 0.5), batch_of([4] * 10)
    batch.more = batch.pixels[:, None].expand(-1, 3, -1, -1, -1).contiguous()
    torch.manual_seed(5)
    keep = step.providers["student"]._keep(batch)
    where = towers.places(batch)
    images = torch.cat([keep[:, where["image"]], keep[:, where["more"]]], 1)
    assert images.shape[1] == 4
    flat = [tuple(sorted(row.tolist())) for row in images.flatten(0, 1)]
    assert len(set(flat)) > len(flat) * 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_follows_the_pool_too(kind):
    step = step_of(kind, objectives=OBJECTIVES)
    teacher = step.providers["ema"].teacher.copy
    batch = batch_of()
    step.eval()
    found = step.features(batch, 0.0, {"image", "ema_image"})
    torch.testing.assert_close(found["ema_image"], found["image"], **bounds.near())
    assert ("image_pool" in "".join(name for name, _ in teacher.named_parameters())) == (kind == "attention")
    if kind == "attention":
        teacher.image_pool.score.weight.data.neg_()
        changed = step.features(batch, 0.0, {"ema_image"})["ema_image"]
        assert (changed - found["image"]).abs().max() > 1e-3


def test_a_pool_that_nothing_teaches_does_not_train():
    """Without several images, or where no objective sees the image: DDP would wait for its gradient."""
    of_views = {"views": {"use": "clip", "inputs": {"image": "views.0"}}}
    for several_images, objectives in ((False, {"clip": {}}), (True, of_views)):
        step = step_of("attention", objectives=objectives)
        student = step.providers["student"]
        for p in student.parameters():
            p.requires_grad_(True)
        student.several = several_images
        step.freeze_unasked()
        assert not any(p.requires_grad for p in student.model.image_pool.parameters())
        assert any(p.requires_grad for p in student.model.vision_model.parameters())


def under_ddp(kind, single):
    step = step_of(kind)
    wrapped = torch.nn.parallel.DistributedDataParallel(step)
    counts = [1] * 5 + COUNTS[5:] if single else COUNTS  # the first rank's samples have one image each
    part = batch_of(counts).split(5)[parallel.rank()]
    for _ in range(2):  # DDP says in the second what had no gradient in the first
        step.zero_grad()
        wrapped(part, 0.3)[0].backward()
    return {name: p.grad for name, p in step.named_parameters() if p.grad is not None}


@pytest.mark.dist
@pytest.mark.parametrize("single", [False, True])
def test_two_ranks_have_the_gradient_of_one(single):
    counts = [1] * 5 + COUNTS[5:] if single else COUNTS
    _, expected = taken(step_of("attention"), batch_of(counts))
    for found in run(2, under_ddp, "attention", single):
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7, msg=name)  # shares are float32


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return several.write(tmp_path_factory.mktemp("several"), {n: several.sample(n) for n in range(36)})


def settings(shards, out, *more):
    named = ["data.images=[png,1.png,2.png,3.png]", "data.images_at_most=3", "model.image_pool=attention"]
    return [f"data.train={shards}", f"out={out}", "steps=6", "data.batch=12", "average.decay=0.9", *named, *more]


def weights(checkpoint):
    return {str(path.relative_to(checkpoint)): load_file(path) for path in checkpoint.rglob("*.safetensors")}


def equal(a, b):
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    assert any("image_pool" in name for name in a)
    for name in a:
        for key, value in a[name].items():
            assert torch.equal(value, b[name][key]), (name, key)


def test_a_run_goes_on_as_if_it_had_not_stopped(shards, tmp_path):
    """To the bit, the learnt pool, its average and its optimizer state with it; and the pool has learnt."""
    whole = run_here(settings(shards, tmp_path / "whole"))
    run_here(settings(shards, tmp_path / "parts", "save.every_steps=3"))
    for later in (tmp_path / "parts/checkpoints").glob("step-00000006"):
        later.rename(tmp_path / "later")
    again = run_here(settings(shards, tmp_path / "parts"))
    equal(whole, again)
    pool = load_file(whole / "model/image_pool/model.safetensors")
    assert pool["image_pool.score.weight"].any()
    faults = json.loads((whole / "position.json").read_text())["loader"]["faults"]
    assert faults == {"missing_image": sum(several.views(n) < 4 for n in range(36)) * 2}


def test_named_and_unnamed_single_images_train_the_same(tmp_path):
    """Weights to the bit, whether a sample's one image is called so or not."""
    url = several.write(tmp_path / "single", {n: several.sample(n, 1) for n in range(36)})
    plain_run = [f"data.train={url}", "steps=4", "data.batch=12", "patch_dropout=0.25"]
    a = weights(run_here([*plain_run, f"out={tmp_path / 'a'}"]))
    named = ["data.images=json:images", "data.images_at_most=3"]
    b = weights(run_here([*plain_run, f"out={tmp_path / 'b'}", *named]))
    assert a.keys() == b.keys()
    assert all(torch.equal(value, b[name][key]) for name in a for key, value in a[name].items())


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("launch", [["--processes", "2"]])
def test_two_processes_train_as_one(launch, shards, tmp_path):
    micro = "micro_batch=2"
    run_here(settings(shards, tmp_path / "one"))
    finish(start(settings(shards, tmp_path / "two", micro), launch))
    one, two = (log(tmp_path / name, "step", "loss") for name in ("one", "two"))
    assert [step for step, _ in one] == [step for step, _ in two]
    for (_, a), (_, b) in zip(one, two):
        assert a == pytest.approx(b, rel=1e-4)
