"""Samples with several images in the loader: which, how many, drawn how, what is counted, and one image as before."""

import json

import numpy as np
import pytest
import torch

from mmclr.config import ConfigError, load
from mmclr.data.samples.fields import identity
from mmclr.data.samples.images import Images
from mmclr.data.samples.skipped import Fault
from mmclr.data.samples.store import together
from mmclr.data.stream.loader import DataConfig, Loader
from mmclr.errors import UserError
from tests.data import several
from tests.data.made import RANDOM, picture, rows, take

NAMED = ["png", "1.png", "2.png", "3.png"]
LISTED = {"images": "json:images", "images_at_most": 4}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    return several.write(folder, {n: several.sample(n) for n in range(24)})


@pytest.fixture
def loader(tokenizer):
    def make(url, size=24, seed=1, rank=0, world=1, **settings):
        config = load(DataConfig, {"train": url, "batch": 12, "workers": 0, **settings})
        return Loader(config, tokenizer, size, seed, rank, world)

    return make


def by_key(batches):
    return {key: several.images_of(batch, i) for batch in batches for i, key in enumerate(batch.keys)}


def same(a, b):
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[key], b[key]) for key in a)


def test_members_and_a_list_of_them_are_the_same(shards, loader):
    named, listed = loader(shards, images=NAMED), loader(shards, **LISTED)
    found = by_key(take(named, 2))
    same(found, by_key(take(listed, 2)))
    assert {int(key): len(images) for key, images in found.items()} == {n: several.views(n) for n in range(24)}
    assert named.ledger.counts == {"missing_image": 18}  # each that lacks one of the four
    assert listed.ledger.counts == {}
    assert "it lacks 1.png, 2.png, 3.png" in "\n".join(named.ledger.lines())


def test_each_image_is_the_one_that_the_member_is(shards, loader, tmp_path):
    """What is random turned off: as a sample of this one image would be seen."""
    still = {"augment": {"crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0]}}
    found = by_key(take(loader(shards, images=NAMED, **still), 2))
    for number in (3, 6, 9):
        for at in range(several.views(number)):
            alone = {n: several.sample(n, 1) for n in range(12)}
            alone[0]["png"] = picture(number + 100 * at, size=(40 + at, 32))
            url = several.write(tmp_path / f"{number}-{at}", alone)
            [batch] = take(loader(url, **still), 1)
            assert np.array_equal(found[f"{number:06d}"][at], batch.pixels[batch.keys.index("000000")].numpy())


@pytest.mark.parametrize("settings", [{}, RANDOM, {"views": 2}, {"bucket": True, "cache": "decoded"}])
def test_with_one_image_each_all_is_as_it_was(settings, loader, tmp_path):
    """To the bit: pixels, views, boxes, ids, texts; whatever `images` is called."""
    if "caption" in settings:
        settings = {**settings, "caption": {"txt": 1, "json:number": 2}}
    url = several.write(tmp_path, {n: several.sample(n, 1) for n in range(24)})
    plain = take(loader(url, **settings), 3)
    for names in ({"images": ["png"]}, {"images": ["png", "1.png"]}, LISTED):
        if names["images"] == ["png", "1.png"]:  # which no sample has is noted
            names = {"images": "json:images", "images_at_most": 2}
        for a, b in zip(plain, take(loader(url, **settings, **names), 3)):
            assert rows(a) == rows(b)
            own = a.tensors()
            assert all(torch.equal(x, b.tensors()[name]) for name, x in own.items())
            assert b.image_counts is None or b.image_counts.eq(1).all()
            assert b.more is None or not b.more.any()


def test_the_views_are_those_of_the_first(shards, loader):
    batch = take(loader(shards, views=2, images=NAMED), 1)[0]
    alone = take(loader(shards, views=2, images=["png"]), 1)[0]
    assert torch.equal(batch.pixels, alone.pixels)
    assert torch.equal(batch.views, alone.views)
    assert torch.equal(batch.view_boxes, alone.view_boxes)


def test_at_most_so_many_are_drawn_by_sample_and_epoch(shards, loader):
    """In their order, another part in each epoch, in the end all of them; whoever reads, and however it is batched."""
    still = {"augment": {"crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0]}, "images": NAMED}
    every = by_key(take(loader(shards, **still), 2))
    few = loader(shards, images_at_most=2, **still)
    seen = {key: [] for key in every}
    for _ in range(12):
        for key, images in by_key(take(few, 2)).items():
            at = [next(i for i, one in enumerate(every[key]) if np.array_equal(one, image)) for image in images]
            assert at == sorted(set(at))
            assert len(at) == min(2, len(every[key]))
            seen[key].append(tuple(at))
    for key, draws in seen.items():
        assert {i for at in draws for i in at} == set(range(len(every[key]))), key
    three = [draws for key, draws in seen.items() if len(every[key]) == 3]
    assert len({tuple(draws) for draws in three}) > 1  # not the same for all samples
    other = loader(shards, images_at_most=2, batch=6, **still)
    same(by_key(take(other, 4)), by_key(take(loader(shards, images_at_most=2, **still), 2)))


def test_two_ranks_and_a_resumed_run_see_the_same(shards, loader):
    settings = {**RANDOM, "caption": "txt", "images": NAMED, "images_at_most": 3}
    whole = take(loader(shards, **settings), 4)
    for rank in range(2):
        for a, b in zip(whole, take(loader(shards, rank=rank, world=2, **settings), 4)):
            half = slice(6 * rank, 6 * rank + 6)
            for name in ("pixels", "more", "image_counts", "image_id"):
                assert torch.equal(getattr(a, name)[half], getattr(b, name))
    first = loader(shards, **settings)
    take(first, 2)
    again = loader(shards, **settings)
    again.load_state_dict(first.state_dict())
    for a, b in zip(whole[2:], take(again, 2)):
        assert all(torch.equal(x, b.tensors()[name]) for name, x in a.tensors().items())


def test_what_is_kept_in_memory_is_the_same(shards, loader, tmp_path):
    """Images that cannot be decoded, too: of two samples one of several, found out when it is decoded."""
    samples = {n: several.sample(n) for n in range(24)}
    for number, name in ((2, "1.png"), (7, "png")):
        samples[number][name] = samples[number][name][:-30]
    url = several.write(tmp_path, samples)
    settings = {"images": NAMED, "images_at_most": 3}
    read, kept = loader(url, **settings), loader(url, cache="decoded", **settings)
    for a, b in zip(take(read, 6), take(kept, 6)):
        assert all(torch.equal(x, b.tensors()[name]) for name, x in a.tensors().items())
        assert a.faults == b.faults
    assert read.ledger.counts == kept.ledger.counts
    assert read.ledger.counts["lost_image"] > 2


def test_image_ids_are_over_all_images(shards, loader):
    a, b, c = (picture(n) for n in range(3))
    assert together([a]) == identity(a)
    assert len({together(images) for images in ([a], [b], [a, b], [b, a], [a, b, c], [a, a])}) == 6
    batch = take(loader(shards, images=NAMED, images_at_most=1), 1)[0]
    for key, found in zip(batch.keys, batch.image_id.tolist()):
        members = several.sample(int(key))
        assert found == together([members[name] for name in NAMED if name in members])


def faulty(samples, loader, tmp_path, **settings):
    made = loader(several.write(tmp_path, samples), faults="skip", batch=8, **{**LISTED, **settings})
    [batch] = take(made, 1)
    return batch, made.ledger


def test_a_sample_with_one_good_image_is_used(loader, tmp_path):
    """Missing, not an image, damaged behind its header, not a name of the sample: the others are seen."""
    samples = {n: several.sample(n, 3) for n in range(8)}
    del samples[1]["1.png"]
    samples[2]["png"] = b"no image"
    samples[3]["2.png"] = samples[3]["2.png"][:-40]
    batch, ledger = faulty(samples, loader, tmp_path)
    counts = dict(zip(map(int, batch.keys), batch.image_counts.tolist()))
    assert counts == {**dict.fromkeys(range(8), 3), 1: 2, 2: 2, 3: 2}
    assert ledger.counts == {"missing_image": 1, "lost_image": 2}
    assert ledger.lost == 0
    assert batch.weights.eq(1).all()
    at = batch.keys.index("000002")
    assert batch.pixels[at].any()


def test_a_sample_without_any_is_a_fault_in_one_sentence(loader, tmp_path):
    samples = {n: several.sample(n, 2) for n in range(8)}
    told = {0: [], 1: ["x.png"], 2: {"a": 1}, 3: [7], 4: None}
    for number, images in told.items():
        samples[number]["json"] = json.dumps({"images": images}).encode()
    samples[5] = {**samples[5], "png": b"bad", "1.png": b"worse"}
    batch, ledger = faulty(samples, loader, tmp_path, max_faults=1.0)
    assert ledger.counts == {"no_image": 3, "bad_field": 2, "bad_image": 1}
    assert batch.weights.sum() == 2
    said = "\n".join(ledger.lines())
    for sentence in (
        "json:images is an empty list: the sample has no image",
        "it has none of the images that json:images names: x.png",
        "json:images is an object, not a list of members",
        "json:images has an entry that is a huge number, not a member",
        "it has no json:images, which lists its images",
    ):
        assert sentence in said


def test_names_with_the_key_are_members(tmp_path):
    images = Images("json:i")
    members = {"png": b"1", "1.png": b"2", "json": json.dumps({"i": ["k7.1.png", "png", "k7.png"]}).encode()}
    found = images.of(type("S", (), {"members": members, "key": "k7"}), ("png",), [])
    assert found == [b"2", b"1"]
    with pytest.raises(Fault, match="empty list"):
        images.of(type("S", (), {"members": {"json": b'{"i": []}'}, "key": "k7"}), ("png",), [])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"images": []}, r"images: \[\] names no member; leave it out"),
        ({"images": ["png", "png"]}, "images names members, each once"),
        ({"images": ["json:a", "png"]}, "json:a is a list of members already; write it alone"),
        ({"images": "json:"}, "json: names no field; write json:FIELD"),
        ({"images": "json:a"}, "json:a may list any number; say how many of them a step sees with images_at_most"),
        ({"images_at_most": 2}, "a sample has one image; say which are its images"),
        ({"images": ["png"], "images_at_most": -1}, "images_at_most must be at least 0, not -1"),
    ],
)
def test_what_cannot_be_meant_is_said(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load(DataConfig, {"train": "x.tar", **settings})


def test_what_no_sample_has_is_said(shards, loader):
    with pytest.raises(UserError, match=r"data\.images=json:imagess: no sample has it; write json:images"):
        loader(shards, images="json:imagess", images_at_most=2)
    with pytest.raises(UserError, match="no usable sample"):
        loader(shards, images=["jpg", "1.jpg"])


def test_tools_look_at_the_images_that_are_named(shards, loader, tmp_path):
    """Members of which none is called as a single image is; one that is damaged loses the sample to nobody."""
    from mmclr.data_tools.commands.inspect.bench import _usable

    from mmclr.doctor.run import Read, read

    samples = {n: several.sample(n, 2) for n in range(12)}
    for members in samples.values():
        members["front.png"], members["back.png"] = members.pop("png"), members.pop("1.png")
    samples[3]["front.png"] = samples[3]["front.png"][:-40]
    made = loader(several.write(tmp_path, samples), images=["front.png", "back.png"])
    found = [read(made.config, made.assembler.medium, made.parts[0], at) for at in range(12)]
    assert all(isinstance(one, Read) for one in found)
    assert found[3].size == (41, 32)
    assert _usable(made, 0).key == "000000"
