"""Scatter and heat map: places and shades are those of the numbers."""

import re

import pytest

from mmclr.report import scatter


def test_points_stand_on_equal_axes_with_their_names():
    svg = scatter.scatter("map", {"image": [[0, 0, "a<b"], [2, 0, "c"]], "text": [[0, 1, "d"]]})
    at = [tuple(map(float, m)) for m in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert at[1][0] - at[0][0] == pytest.approx(2 * (at[0][1] - at[2][1]), abs=0.3)  # one unit is as long across as up
    assert at[2][1] < at[0][1]  # up is up
    assert "a&lt;b" in svg
    assert svg.count('class="c1"') == 1


def test_a_cell_is_as_dark_as_its_share_of_the_row():
    svg = scatter.heatmap("m", [[8, 2], [0, 0]], ["cat", "dog"])
    shades = re.findall(r'class="(own|other)".*?fill-opacity="([\d.]+)"><title>([^<]*)', svg)
    assert shades == [("own", "0.816", "cat → cat: 8 of 10"), ("other", "0.264", "cat → dog: 2 of 10")]


def test_differences_beside_zero_are_marked():
    svg = scatter.forest("f", [("up", 0.2, [0.1, 0.3]), ("down", -0.2, [-0.3, -0.1]), ("none", 0.0, [-0.1, 0.1])])
    assert re.findall(r'<g class="(\w+)"><text[^>]*>(\w+)', svg) == [
        ("better", "up"),
        ("worse", "down"),
        ("open", "none"),
    ]
    zero = float(re.search(r'class="zero" x1="([\d.]+)"', svg)[1])
    at = [float(m) for m in re.findall(r'<circle cx="([\d.]+)"', svg)]
    assert at[1] < zero < at[0]
    assert at[2] == zero
