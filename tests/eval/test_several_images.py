"""Items of several images in evaluations: one row each, the mean of its images' embeddings, faults counted, ranks."""

import json

import numpy as np
import pytest
import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.sets import layout
from mmclr.eval.sets.shards import ordinary
from mmclr.eval.sets.sources import open_set
from mmclr.eval.suites.classification import robustness, zero_shot
from mmclr.eval.suites.retrieval import retrieval

import mmclr
from mmclr.errors import UserError
from tests import bounds
from tests.ranks import run

NAMES = ["png", "1.png", "2.png"]
CLOSE = bounds.bound(terms=64)


def count(number):
    return 1 + number % 3


def members(toy, number, several=True):
    """An item of 1 to 3 images of its own; or its first alone."""
    names = NAMES[: count(number) if several else 1]
    facts = {"colour": toy.COLOURS[number % 6], "images": names}
    text = f"a {toy.COLOURS[number % 6]} {toy.SHAPES[number % 4]} {number}"
    images = {name: toy.picture(number + 100 * at) for at, name in enumerate(names)}
    return {**images, "txt": text.encode(), "json": json.dumps(facts).encode()}


@pytest.fixture
def items(toy, tmp_path):
    samples = {f"i{number:03d}": members(toy, number) for number in range(36)}
    return str(toy.write_tar(tmp_path / "items.tar", samples))


@pytest.fixture
def embedder(model_folder):
    return Embedder.load(model_folder, device="cpu", batch=8)


def by_hand(model_folder, toy, tmp_path):
    """The mean of what the model says of each image alone, in numpy."""
    encoder = mmclr.load(model_folder)
    rows = []
    for number in range(36):
        files = []
        for at in range(count(number)):
            files.append(tmp_path / f"{number}-{at}.png")
            files[-1].write_bytes(toy.picture(number + 100 * at))
        mean = encoder.encode_image(files).astype(np.float64).mean(0)
        rows.append(mean / np.linalg.norm(mean))
    return np.stack(rows)


def test_retrieval_and_zero_shot_are_by_item(items, embedder, model_folder, toy, tmp_path):
    images = by_hand(model_folder, toy, tmp_path)
    for given in (NAMES, "json:images"):
        data = open_set(items, image_members=given)
        assert len(data) == 36
        np.testing.assert_allclose(embedder.pictures(data).images.numpy(), images, atol=CLOSE)
        found = retrieval.run(embedder, data, ks=(1, 5))
        texts = embedder.texts([texts[0] for texts in data.captions]).double().numpy()
        order = (-texts @ images.T).argsort(1)
        for k in (1, 5):
            recall = np.mean([i in order[i, :k] for i in range(36)])
            assert found.metrics[f"image_retrieval_recall@{k}"] == pytest.approx(recall)
        assert found.sizes["images"] == 36
    data = open_set(items, image_members=NAMES, caption="", label="json:colour")
    classes = embedder.texts(list(data.classnames)).double().numpy()
    right = (images @ classes.T).argmax(1) == data.labels.numpy()
    assert zero_shot.run(embedder, data).metrics["acc1"] == pytest.approx(right.mean())


def test_the_first_image_alone_is_another_evaluation(items, embedder):
    """And what it was before there were items: without image_members nothing is pooled."""
    plain, pooled = open_set(items), open_set(items, image_members=NAMES)
    assert plain.items is None
    one, all_of_them = embedder.pictures(plain), embedder.pictures(pooled)
    single = [i for i in range(36) if count(i) == 1]
    torch.testing.assert_close(one.images[single], all_of_them.images[single], atol=CLOSE, rtol=0)
    assert (one.images - all_of_them.images).abs().max() > 0.01
    assert one.hash != all_of_them.hash


def test_items_of_one_image_are_the_images_to_the_bit(toy, tmp_path, embedder, model_folder):
    samples = {f"i{number:03d}": members(toy, number, several=False) for number in range(12)}
    url = str(toy.write_tar(tmp_path / "single.tar", samples))
    plain, items = embedder.pictures(open_set(url)), Embedder.load(model_folder, device="cpu", batch=8)
    items = items.pictures(open_set(url, image_members="json:images"))
    assert torch.equal(plain.images, items.images)
    assert plain.hash == items.hash


@pytest.mark.parametrize("kind", ["attention", "first"])
def test_the_models_own_pool_is_used(kind, items, model_folder, toy, tmp_path):
    model = mmclr.load(model_folder).model
    model.image_pool = type(model.image_pool)(kind, 16)
    for p in model.image_pool.parameters():
        p.data.normal_(generator=torch.Generator().manual_seed(0))
    data = open_set(items, image_members=NAMES)
    model.config = mmclr.config.check(type(model.config), {**mmclr.config.to_tree(model.config), "image_pool": kind})
    embedder = Embedder("toy", model, mmclr.load(model_folder).tokenizer, batch=8)
    found = embedder.pictures(data).images
    files = []
    for number in range(36):
        files.append([])
        for at in range(count(number)):
            files[-1].append(tmp_path / f"{number}-{at}.png")
            files[-1][-1].write_bytes(toy.picture(number + 100 * at))
    own = mmclr.encoder.Encoder(model, embedder.tokenizer, "cpu").encode_images(files)
    np.testing.assert_allclose(found.numpy(), own, atol=CLOSE)
    if kind == "attention":
        pre = Embedder("toy", model, embedder.tokenizer, head="pre")
        with pytest.raises(UserError, match="its pool of several images lies behind the projection; leave out --head"):
            pre.pictures(data)


def test_what_is_lost_is_counted_and_told_again(toy, tmp_path, model_folder):
    """An image that is missing or damaged leaves its item; an item without one leaves the set. Twice, with a cache."""
    samples = {f"i{number:03d}": members(toy, number) for number in range(12)}
    samples["i002"]["1.png"] = samples["i002"]["1.png"][:-60]
    samples["i005"] = {**samples["i005"], **dict.fromkeys(NAMES, b"no image")}
    del samples["i008"]["2.png"]
    url = str(toy.write_tar(tmp_path / "items.tar", samples))
    found = []
    for _ in range(2):
        embedder = Embedder.load(model_folder, device="cpu", cache=tmp_path / "cache")
        found.append(embedder.pictures(open_set(url, image_members="json:images")))
        assert found[-1].data.skipped == {"lost_image": 1, "missing_image": 1, "bad_image": 1}
        assert len(found[-1].data) == 11
        assert "i005" not in found[-1].data.keys
    assert torch.equal(found[0].images, found[1].images)


def test_other_suites_take_items(items, embedder):
    clean = open_set(items, image_members=NAMES, caption="", label="json:colour")
    spoilt = robustness.corrupted(clean, "gaussian_noise", 0)
    seen, before = (data.seen_by(embedder.medium, 2, [])[0] for data in (spoilt, clean))
    assert len(seen) == len(before) == 3
    assert not set(seen) & set(before)
    found = zero_shot.suite.measured(embedder, clean, zero_shot.suite.parser().parse_args(["--data", items]))
    assert "an item's images are one row, pooled by mean" in found.notes


def test_what_has_no_items_says_so(items, toy, tmp_path):
    with pytest.raises(UserError, match="layout has one image for each sample, and these have several"):
        layout.write(ordinary(items, images=NAMES), tmp_path / "wds")
    folder = tmp_path / "classes" / "red"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(toy.picture(0))
    with pytest.raises(UserError, match="--image-members: only shards name the images of a sample"):
        open_set(str(folder.parent), image_members=NAMES)
    with pytest.raises(UserError, match="--image-members: images names members, each once"):
        open_set(items, image_members=["png", "png"])
    with pytest.raises(UserError, match="--image-members=json:imagess: no sample has it; write json:images"):
        open_set(items, image_members="json:imagess")


def rows_of_items(folder, url):
    found = Embedder.load(folder, device="cpu", batch=8).pictures(open_set(url, image_members=NAMES))
    return found.images, found.hash, dict(found.data.skipped)


@pytest.mark.dist
def test_two_processes_see_what_one_sees(items, model_folder):
    alone = rows_of_items(model_folder, items)
    for images, digest, skipped in run(2, rows_of_items, str(model_folder), items):
        torch.testing.assert_close(images, alone[0], atol=CLOSE, rtol=0)
        assert digest == alone[1]
        assert skipped == alone[2] == {"missing_image": 24}
