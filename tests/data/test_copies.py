"""Copies of images that makers make: blurred, sharpened, turned."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchvision.transforms.v2 import functional as peer

from mmclr.data.pixels.copies.frequency import Blurred, Sharpened, gaussian_blur, sharpen
from mmclr.data.pixels.copies.turned import Turned, jigsaw, orders, rotate

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
