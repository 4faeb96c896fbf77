"""Pixel sets: what makes them, the batch that carries them, and what a config says of them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torchvision.transforms.v2 import functional as peer

from mmclr import batch_fields, vocabulary
from mmclr.config import ConfigError, check
from mmclr.data.pixels.copies.frequency import Blurred, Sharpened, gaussian_blur, sharpen
from mmclr.data.pixels.copies.turned import Turned, jigsaw, orders, rotate
from mmclr.data.samples.field_readers import check_asked
from mmclr.data.settings import DataConfig
from mmclr.errors import UserError
from tests.data.made import pair, picture, take, write_tar
from tests.train.test_accumulate import LOADED, make_batch

MAKERS = [
    Blurred(2, (4.0, 30.0)),
    Sharpened(2, (0.5, 3.0)),
    Turned(1, "rotation"),
    Turned(1, "jigsaw"),
]
every_maker = pytest.mark.parametrize("maker", MAKERS, ids=["blurred", "sharpened", "rotation", "jigsaw"])
each_type = pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])


def images(n=5, size=20, dtype=torch.uint8, channels=3):
    g = torch.Generator().manual_seed(3)
    x = torch.randint(0, 256, (n, channels, size, size), generator=g, dtype=torch.uint8)
    return x if dtype == torch.uint8 else x.to(dtype) / 200 - 0.3


def draws(n=5):
    return torch.randint(1 << 62, (n,), generator=torch.Generator().manual_seed(4))


@every_maker
@each_type
def test_a_copy_is_a_function_of_its_image_and_number_alone(maker, dtype):
    """Whatever the order, the neighbours and the size of the batch; another number makes another copy."""
    x, d, order = images(40, dtype=dtype), draws(40), torch.randperm(40)
    made, said = maker.pixels(x, d), maker.said(d)
    assert made.shape == (40, maker.count, *x.shape[1:])
    assert said.shape == (40, maker.count)
    assert made.dtype in (dtype, torch.float32)
    assert torch.equal(maker.pixels(x[order], d[order]), made[order])
    assert torch.equal(maker.said(d[order]), said[order])
    assert torch.equal(torch.cat([maker.pixels(x[:7], d[:7]), maker.pixels(x[7:], d[7:])]), made)
    assert (maker.said(d + 1) != said).float().mean() > 0.5
    if dtype == torch.uint8:
        assert made.min() >= 0
        assert made.max() <= (255 if made.dtype == torch.uint8 else 1)


@pytest.mark.parametrize("channels", [1, 5])
def test_blur_is_the_gaussian_of_what_lies_inside(channels):
    """Against scipy in float64: the blurred image over the blurred area."""
    x = images(4, dtype=torch.float32, channels=channels)[:, :, :, :13]
    sigma = torch.tensor([0.4, 1.0, 3.0, 9.0])
    found = gaussian_blur(x, sigma)
    for row, width in enumerate(sigma.tolist()):
        how = {"sigma": (0, width, width), "mode": "constant", "truncate": 60}
        area = ndimage.gaussian_filter(np.ones(x[row].shape), **how)
        expected = ndimage.gaussian_filter(x[row].double().numpy(), **how) / area
        np.testing.assert_allclose(found[row].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_blur_leaves_constants_and_what_has_no_width():
    x = images(2, dtype=torch.float32)
    assert torch.equal(gaussian_blur(x, torch.zeros(2)), x)
    flat = torch.full((1, 3, 16, 16), 7.0)
    torch.testing.assert_close(gaussian_blur(flat, torch.tensor([5.0])), flat)


def test_sharpening_has_the_numbers_of_the_card():
    """And is torchvision's, which rounds the smoothed image."""
    x = torch.zeros(4, 1, 3, 3)
    x[:, 0, 1, 1] = 0.13
    found = sharpen(x, torch.tensor([0.5, 1.0, 2.0, 99.0]))
    torch.testing.assert_close(found[:, 0, 1, 1], torch.tensor([0.09, 0.13, 0.21, 1.0]))
    assert torch.equal(found[:, :, 0], x[:, :, 0])
    image = images(1)
    for s in (0.0, 0.7, 2.5):
        mine = 255 * sharpen(image.float() / 255, torch.tensor([s]))[0]
        theirs = peer.adjust_sharpness(image[0], s)
        assert (mine - theirs).abs().max() <= 1 + abs(1 - s) / 2


def test_a_quarter_is_clockwise_and_four_are_none():
    x = images(4)
    turned = rotate(x, torch.arange(4))
    for k in range(4):
        assert torch.equal(turned[k], torch.rot90(x[k], -k, (1, 2)))
    assert torch.equal(rotate(turned, (4 - torch.arange(4)) % 4), x)
    with pytest.raises(ValueError, match="only square images"):
        rotate(x[..., :7], torch.zeros(4))


@pytest.mark.parametrize("size", [9, 20])
def test_a_jigsaw_moves_whole_tiles(size):
    x = images(35, size)
    turn = torch.arange(35)
    found, side, at = jigsaw(x, turn), size // 3, size % 3 // 2
    assert torch.equal(found[0], x[0])
    for row, order in enumerate(orders()):
        assert sorted(order) == list(range(9))
        for place, tile in enumerate(order):
            (i, j), (k, m) = divmod(place, 3), divmod(tile, 3)
            mine = found[row, :, at + i * side : at + (i + 1) * side, at + j * side : at + (j + 1) * side]
            assert torch.equal(
                mine, x[row, :, at + k * side : at + (k + 1) * side, at + m * side : at + (m + 1) * side]
            )
    assert torch.equal(found.flatten(2).sort(2)[0], x.flatten(2).sort(2)[0])
    assert len(set(orders())) == 35
    apart = [sum(a != b for a, b in zip(one, other)) for one in orders() for other in orders() if one != other]
    assert min(apart) >= 7


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
    config = check(DataConfig, tree)
    assert [*config.asked_alone({"image", "view_boxes"}).pixel_sets()] == ["views"]
    assert [*config.asked_alone({"ema_local_views", "companion"}).pixel_sets()] == ["views", "local_views", "companion"]


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
