"""Pixel sets: the loader that reads and cuts them, the batch that carries them, and what a config says of them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mmclr import batch_fields, vocabulary
from mmclr.config import ConfigError, check
from mmclr.data.samples.field_readers import check_asked
from mmclr.data.settings import DataConfig
from mmclr.errors import UserError
from tests.data.made import pair, picture, take, write_tar
from tests.train.test_accumulate import LOADED, make_batch


def test_every_set_has_its_rows():
    for name, row in batch_fields.SETS.items():
        feature = vocabulary.FEATURES[name]
        assert feature.pixels == name
        assert feature.gradient
        assert (f"ema_{name}" in vocabulary.FEATURES) == (f"frozen_{name}" in vocabulary.FEATURES) == row.projected


def test_a_batch_carries_its_sets_everywhere():
    batch = make_batch()
    assert batch.counts == {"image": 1, **LOADED, "sharpened": 2, "blurred": 1, "turned": 1}
    assert [*batch.counts][1:] == [*batch_fields.SETS]
    assert torch.equal(batch.views, batch.sets["views"])
    assert {*LOADED, "draws"} <= batch.tensors().keys()
    rows = torch.tensor([7, 2, 2])
    for part, at in ((batch.take(rows), rows), (batch.split(4)[1], torch.arange(4, 8)), (batch.to("cpu"), slice(None))):
        for name in batch.counts:
            torch.testing.assert_close(part.seen(name), batch.seen(name)[at])
        assert torch.equal(part.blur, batch.blur[at])
        assert torch.equal(part.turn, batch.turn[at])


def test_the_loader_draws_anew_in_each_epoch_and_the_same_again(make_loader):
    """And neither the order of rows nor the ranks change what is made of a sample."""
    settings = {"degrade": {"blur": 2, "sigma": [1, 60]}, "turned": "rotation", "batch": 53, "bucket": True}
    first, second = take(make_loader(**settings), 2)
    again = take(make_loader(**settings, workers=2), 1)[0]
    halves = [take(make_loader(**settings | {"batch": 52}, rank=rank, world=2), 1)[0] for rank in range(2)]
    assert torch.equal(first.seen("blurred"), again.seen("blurred"))
    by_key = {key: (blur, turn) for key, blur, turn in zip(first.keys, first.blur, first.turn)}
    later = {key: (blur, turn) for key, blur, turn in zip(second.keys, second.blur, second.turn)}
    assert sum(torch.equal(by_key[key][0], later[key][0]) for key in by_key) == 0
    assert 20 < sum(bool(by_key[key][1] != later[key][1]) for key in by_key) < 53
    for half in halves:
        for key, blur in zip(half.keys, half.blur):
            assert torch.equal(blur, by_key[key][0])
    plain = take(make_loader(), 1)[0]
    assert plain.draws is None
    assert plain.counts == {"image": 1}


def with_companions(folder, kinds=("ref.jpg", "gen.jpg"), without=(), count=24):
    """Write a shard of pairs that have further images; return its path."""
    members = []
    for n in range(count):
        own = pair(n) | {kind: picture(100 + n, (30, 30), "JPEG") for kind in kinds}
        own |= {"gen.jpg": b"no image"} if n in without else {}
        members += [(f"{n:06d}.{ext}", data) for ext, data in own.items() if not (n in without and ext == "ref.jpg")]
    return str(write_tar(folder / "pairs.tar", members))


FAMILIES = {
    "strong_views": {"count": 2, "augment": {"crop_scale": [0.1, 0.2]}},
    "local_views": {"augment": {"crop_scale": [0.05, 0.06]}},
}


def test_the_loader_cuts_each_set_out_of_its_own_image(make_loader, tmp_path):
    """Families of views out of the image, as their own settings say, companions out of their members."""
    more = {"companion": "ref.jpg", "view_augments": FAMILIES, "views": 1}
    settings = {"train": with_companions(tmp_path), "batch": 24, "augment": {"crop_scale": [1.0, 1.0]}}
    plain, loader = take(make_loader(**settings, views=1), 1)[0], make_loader(**settings, **more)
    batch = take(loader, 1)[0]
    assert batch.counts == {"image": 1, "views": 1, "strong_views": 2, "local_views": 1, "companion": 1}
    assert torch.equal(batch.pixels, plain.pixels)  # other sets change nothing
    assert torch.equal(batch.views, plain.views)
    assert torch.equal(batch.view_boxes, plain.view_boxes)
    medium = loader.assembler.medium
    for row, key in enumerate(batch.keys):
        expected = torch.tensor(medium.plain(medium.open(picture(100 + int(key), (30, 30), "JPEG"))))
        assert (batch.seen("companion")[row, 0].permute(1, 2, 0).int() - expected).abs().max() <= 3
    strong = batch.seen("strong_views")
    assert not torch.equal(strong[:, 0], strong[:, 1])
    assert all(x.stride()[-3] == 1 for x in batch.sets.values())  # in memory channels last, as images are


@pytest.mark.parametrize("cache", ["none", "decoded"])
def test_what_is_drawn_for_a_set_depends_on_no_other(make_loader, tmp_path, cache):
    settings = {"train": with_companions(tmp_path), "batch": 12, "generated": "gen.jpg", "cache": cache}
    settings |= {"augment": {"crop_scale": [0.2, 0.5], "brightness": 0.5, "shift": 0.1}}
    alone = take(make_loader(**settings), 4)
    beside = take(make_loader(**settings, companion="ref.jpg", view_augments=FAMILIES, views=2, workers=1), 4)
    for one, other in zip(alone, beside):
        assert torch.equal(one.seen("generated"), other.seen("generated"))
        assert torch.equal(one.pixels, other.pixels)
    assert not torch.equal(beside[0].seen("generated"), beside[0].seen("companion"))


@pytest.mark.parametrize("faults", ["substitute", "skip"])
def test_a_sample_without_its_member_is_a_counted_fault(make_loader, tmp_path, faults):
    path = with_companions(tmp_path, without=(3, 8))
    settings = {"train": path, "batch": 24, "faults": faults, "max_faults": 1.0, "companion": "ref.jpg"}
    loader = make_loader(**settings, generated="gen.jpg")
    batch = take(loader, 1)[0]
    assert loader.ledger.counts["no_member"] >= 2
    assert any("000003" in line and "it has no ref.jpg" in line for line in loader.ledger.lines())
    assert int((batch.weights == 0).sum()) == (2 if faults == "skip" else 0)
    assert not {"000003", "000008"} & {*batch.keys}
    loader = make_loader(**{**settings, "companion": ""}, generated="gen.jpg")
    take(loader, 1)
    assert loader.ledger.counts["bad_image"] >= 2
    with pytest.raises(UserError, match="data.companion=ref.png: no sample has it"):
        make_loader(**{**settings, "companion": "ref.png"})


def test_a_large_member_is_read_whole(make_loader, tmp_path):
    """Other members of more than a mebibyte are cut where they are read: no value is as long."""
    noise = np.random.default_rng(0).integers(0, 256, (800, 800, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG")
    assert len(out.getvalue()) > 1 << 20
    every = [(n, pair(n) | {"ref.png": out.getvalue()}) for n in range(12)]
    path = write_tar(tmp_path / "a.tar", [(f"{n:06d}.{ext}", data) for n, own in every for ext, data in own.items()])
    batch = take(make_loader(train=str(path), companion="ref.png", faults="raise"), 1)[0]
    assert abs(batch.seen("companion").float().mean() - noise.mean()) < 2


def test_only_what_is_asked_for_is_read():
    tree = {"train": "a.tar", "companion": "ref.jpg", "generated": "gen.jpg", "view_augments": FAMILIES, "views": 1}
    config = check(DataConfig, tree | {"degrade": {"blur": 1, "sharpen": 2}, "turned": "jigsaw"})
    assert [*config.asked_alone({"image", "view_boxes"}).pixel_sets()] == ["views"]
    for needs, sets in (
        ({"ema_local_views", "companion"}, ["views", "local_views", "companion"]),
        ({"blur", "frozen_generated"}, ["views", "generated", "blurred"]),
        ({"sharpened", "turn"}, ["views", "sharpened", "turned"]),
    ):
        assert [*config.asked_alone(needs).pixel_sets()] == sets


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (
            {"blurred", "blur"},
            r"data.degrade.blur: an objective or provider asks for blur, blurred .*write data.degrade.blur=1",
        ),
        ({"ema_sharpened"}, r"data.degrade.sharpen: an objective or provider asks for ema_sharpened"),
        ({"strong_views"}, r"data.view_augments.strong_views.count: .*; write data.view_augments.strong_views.count=1"),
        ({"frozen_companion"}, "data.companion: .* write data.companion=ref.jpg"),
        ({"turn"}, r"data.turned: .* write data.turned=rotation"),
        ({"view_tokens"}, r"data.views: an objective or provider asks for view_tokens .*; write data.views=2"),
    ],
)
def test_what_the_config_lacks_is_said(needs, message):
    with pytest.raises(ConfigError, match=message):
        check_asked(check(DataConfig, {"train": "a.tar"}), needs)
    given = {"train": "a.tar", "views": 1, "degrade": {"blur": 1, "sharpen": 1}, "turned": "jigsaw"}
    given |= {"companion": "r.jpg", "view_augments": FAMILIES}
    check_asked(check(DataConfig, given), needs)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"turned": "rotation"}, "data.turned is of images, and model.image.array takes arrays: leave it out"),
        ({"degrade": {"blur": 1}}, "data.degrade.blur is of images"),
        ({"view_augments": FAMILIES}, "data.view_augments.strong_views.count is of images"),
    ],
)
def test_arrays_have_no_copies_and_families(tree, message):
    with pytest.raises(ConfigError, match=message):
        check(DataConfig, {"train": "a.tar", **tree}).array_augments()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"degrade": {"blur": -1}}, "data.degrade: blur must be at least 0, not -1"),
        ({"degrade": {"sigma": [4, 1]}}, r"data.degrade: sigma is a range .* not \[4.0, 1.0\]"),
        ({"turned": "mirror"}, "data.turned"),
        ({"view_augments": {"stron_views": {}}}, "no such family of views; did you mean strong_views"),
        ({"view_augments": {"local_views": {"count": 0}}}, "count must be at least 1, not 0"),
        ({"companion": "json:ref"}, "companion is the ending of a member with an image, like ref.jpg, not 'json:ref'"),
    ],
)
def test_bad_settings(tree, message):
    with pytest.raises(ConfigError, match=message):
        check(DataConfig, {"train": "a.tar", **tree}, "data")
