"""An array is drawn as lines: one for each channel, on one scale, in a picture that nothing else is needed for."""

import base64
import io
import re

import numpy as np
import pytest

from mmclr.data.pixels.array import lines
from mmclr.data.samples.skipped import Fault
from mmclr.report.gallery import Found, Query, grid
from mmclr.report.images import data_uri, signal


def encoded(x):
    out = io.BytesIO()
    np.save(out, np.asarray(x))
    return out.getvalue()


def drawn(x, side=128):
    found = re.findall(r'points="([^"]*)"', signal(encoded(x), side))
    return [np.array([point.split(",") for point in line.split()], float) for line in found]


def test_a_line_goes_through_the_values():
    x = np.array([[0.0, 4.0], [1.0, 2.0], [4.0, 3.0]])
    for line, channel in zip(drawn(x), x.T, strict=True):
        np.testing.assert_allclose(line[:, 0], [0, 63.5, 127], atol=0.06)
        np.testing.assert_allclose(line[:, 1], 63 * (1 - channel / 4), atol=0.06)


def test_of_many_steps_no_peak_is_lost():
    x = np.zeros((10_000, 1))
    x[4321], x[6789] = 1, -1
    (line,) = drawn(x)
    assert len(line) < 300
    assert line[:, 1].min() == 0
    assert line[:, 1].max() == 63
    np.testing.assert_allclose(line[line[:, 1].argmin(), 0] / 127, 0.4321, atol=0.01)


@pytest.mark.parametrize("x", [np.ones((5, 2)), np.ones((1, 4)), np.ones(1), np.arange(6), np.full((3, 1), 1e30)])
def test_whatever_is_an_array_is_drawn(x):
    for line in drawn(x):
        assert np.isfinite(line).all()
        assert line.min() >= 0


def test_no_more_channels_than_people_can_tell_apart():
    assert len(lines(np.zeros((20, 500), np.float32), 64, 32)) == 12


def test_a_query_shows_arrays(tmp_path):
    (tmp_path / "x.npy").write_bytes(encoded(np.arange(8.0)))
    page = grid([Query("rising", [Found(encoded(np.arange(8.0)), True, "a <rise>"), Found(tmp_path / "x.npy", False)])])
    images = re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', page)
    assert len(images) == 2
    assert images[0] == images[1]
    assert base64.b64decode(images[0]).startswith(b"<svg xmlns=")
    assert "a &lt;rise&gt;" in page


def test_what_cannot_be_drawn_is_a_fault():
    with pytest.raises(Fault, match="nan at step 1"):
        data_uri(encoded([1.0, np.nan]))
    with pytest.raises(Fault, match=r"4 dimensions"):
        data_uri(encoded(np.zeros((2, 2, 2, 2))))
