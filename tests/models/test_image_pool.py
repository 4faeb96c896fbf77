"""Several images to one embedding: the formulas in numpy, one image unchanged, nothing of the others; on disk."""

import itertools
import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import mmclr
from mmclr.config import ConfigError, check
from mmclr.errors import UserError
from mmclr.models import init
from mmclr.models.config import ModelConfig
from mmclr.models.init import InitConfig
from mmclr.models.pooling.pool import ImagePool, in_slots
from mmclr.models.two_tower import TwoTower
from tests import bounds
from tests.exports import ICONS, write_checkpoint

KINDS = ["mean", "attention", "first"]
WIDTH, COUNTS = 24, [1, 3, 2, 1, 5]


def made(kind, width=WIDTH, seed=0):
    torch.manual_seed(seed)
    pool = ImagePool(kind, width)
    for p in pool.parameters():
        p.data.normal_()
    return pool.double()


def units(n, seed=1):
    return F.normalize(torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def by_hand(pool, rows):
    """Equations 7 and 8 of Ilse et al. for one sample, in numpy."""
    u = rows.numpy()
    if pool.kind == "attention":
        e = np.exp(np.tanh(u @ pool.hidden.weight.detach().numpy().T) @ pool.score.weight.detach().numpy()[0])
        a = e / e.sum()
    else:
        a = np.full(len(u), 1 / len(u)) if pool.kind == "mean" else np.eye(len(u))[0]
    p = (a[:, None] * u).sum(0)
    return p / np.linalg.norm(p)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_its_formula(kind):
    pool, rows, counts = made(kind), units(sum(COUNTS)), torch.tensor(COUNTS)
    pooled = pool(in_slots(rows, counts, max(COUNTS)), counts).detach().numpy()
    expected = np.stack([by_hand(pool, part) for part in rows.split(COUNTS)])
    np.testing.assert_allclose(pooled, expected, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_one_image_is_itself_in_value_and_gradient(kind):
    """To the bit in float32, beside samples of several: their number of slots is nothing to it."""
    pool, counts = made(kind).float(), torch.tensor(COUNTS)
    rows = units(sum(COUNTS)).float().requires_grad_()
    pooled = pool(in_slots(rows, counts, 7), counts)
    one = torch.tensor([0, 6])
    assert torch.equal(pooled[[0, 3]], rows[one])
    push = torch.randn(2, WIDTH)
    (gradient,) = torch.autograd.grad((pooled[[0, 3]] * push).sum(), rows)
    assert torch.equal(gradient[one], push)


@pytest.mark.parametrize("kind", ["mean", "attention"])
def test_the_order_of_images_and_the_other_samples_are_nothing_to_it(kind):
    pool, rows = made(kind), units(4)
    counts = torch.tensor([4])
    alone = pool(rows[None], counts)
    for order in itertools.permutations(range(4)):
        torch.testing.assert_close(pool(rows[None, list(order)], counts), alone, atol=1e-14, rtol=0)
    beside = torch.tensor([2, 4, 7])
    noise = torch.cat([units(2, 5), rows, units(7, 6)])
    torch.testing.assert_close(pool(in_slots(noise, beside, 9), beside)[1:2], alone, atol=1e-14, rtol=0)


def test_attention_begins_as_the_mean():
    torch.manual_seed(0)
    rows, counts = units(sum(COUNTS)), torch.tensor(COUNTS)
    slots = in_slots(rows, counts, max(COUNTS))
    begun = ImagePool("attention", WIDTH).double()
    torch.testing.assert_close(begun(slots, counts), made("mean")(slots, counts), atol=1e-14, rtol=0)
    begun(slots, counts).square().mul(torch.arange(WIDTH)).sum().backward()
    assert begun.score.weight.grad.abs().max() > 0  # and does not stay it


def test_where_there_is_no_image_no_gradient_comes_from():
    pool, counts = made("attention"), torch.tensor([2, 3])
    slots = in_slots(units(5), counts, 4)
    slots[0, 2:] = slots[1, 3:] = 7.0  # what lies there may be anything
    slots.requires_grad_()
    pool(slots, counts).sin().sum().backward()
    assert torch.isfinite(slots.grad).all()
    assert not slots.grad[0, 2:].any()
    assert not slots.grad[1, 3:].any()


def test_in_slots_keeps_each_where_it_belongs():
    rows = torch.arange(6.0)[:, None]
    found = in_slots(rows, torch.tensor([2, 1, 3]), 3)[..., 0]
    assert found.tolist() == [[0, 1, 0], [2, 0, 0], [3, 4, 5]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_keeps_it_apart(kind, tmp_path):
    """Beside the CLIPModel, which stays as transformers knows it; a folder without one pools by the mean."""
    from transformers import CLIPModel

    run = write_checkpoint(tmp_path / "run", {**ICONS, "image_pool": kind}, bias=False, names=("model",))
    folder = run / "checkpoints/step-00000001/model"
    assert (folder / "image_pool").is_dir() == (kind != "mean")
    _, info = CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    model = TwoTower.load(folder)
    assert model.config.image_pool == kind
    model.save(tmp_path / "again")
    again = TwoTower.load(tmp_path / "again")
    assert again.config == model.config
    assert model.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_folder_of_another_pool_is_refused(tmp_path):
    run = write_checkpoint(tmp_path / "run", {**ICONS, "image_pool": "first"}, names=("model",))
    config = run / "checkpoints/step-00000001/model/image_pool/config.json"
    config.write_text(json.dumps({"kind": "max"}))
    with pytest.raises(UserError, match=r"image_pool/config\.json: its kind is 'max', and no pool of ours"):
        mmclr.load(run)
    with pytest.raises(ConfigError, match=r"image_pool: .*'mean', 'attention' or 'first'"):
        check(ModelConfig, {**ICONS, "image_pool": "max"}, "model")


@pytest.mark.parametrize("there", KINDS[:2])
def test_a_run_starts_from_it(there, tmp_path):
    """A learnt pool comes along with the image tower; where the source has none it begins as the mean."""
    run = write_checkpoint(tmp_path / "run", {**ICONS, "image_pool": there}, names=("model",))
    source = TwoTower.load(run / "checkpoints/step-00000001/model")
    torch.manual_seed(5)
    model = TwoTower(check(ModelConfig, {**mmclr.config.to_tree(source.config), "image_pool": "attention"}))
    init.start(model, InitConfig(source=str(run)))
    if there == "attention":
        assert torch.equal(model.image_pool.hidden.weight, source.image_pool.hidden.weight)
        assert torch.equal(model.image_pool.score.weight, source.image_pool.score.weight)
    else:
        assert not model.image_pool.score.weight.any()


@pytest.fixture(scope="module", params=KINDS)
def encoder(request, tmp_path_factory):
    return mmclr.load(write_checkpoint(tmp_path_factory.mktemp("run"), {**ICONS, "image_pool": request.param}))


def pictures(n):
    return list(np.random.default_rng(0).integers(0, 256, (n, 40, 40, 3), dtype=np.uint8))


def test_items_are_encoded(encoder):
    """Each as its formula says of its images, whatever batch it is in."""
    images = pictures(6)
    items = [images[:1], images[1:3], images[3:]]
    one = encoder.encode_image(images)
    found = encoder.encode_images(items)
    pool = encoder.model.image_pool.double()
    parts = torch.tensor(one, dtype=torch.float64).split([1, 2, 3])
    np.testing.assert_allclose(found, [by_hand(pool, part) for part in parts], atol=bounds.bound(terms=64))
    pool.float()
    np.testing.assert_allclose(encoder.encode_images(items, batch=1), found, atol=bounds.bound(terms=64))
    assert torch.equal(encoder.encode_images(items, output="torch"), torch.from_numpy(found))
    assert encoder.encode_images([]).shape == (0, one.shape[1])


def test_items_of_one_image_are_images(encoder):
    images = pictures(5)
    assert np.array_equal(encoder.encode_images([[image] for image in images]), encoder.encode_image(images))


def test_an_item_without_an_image_is_named(encoder):
    with pytest.raises(UserError, match="item 1 has no image; leave it out"):
        encoder.encode_images([pictures(1), []])
    with pytest.raises(UserError, match="item 1, image 2: .*give uint8"):
        encoder.encode_images([pictures(1), [*pictures(2), np.zeros((4, 4))]])
