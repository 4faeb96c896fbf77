"""Axes, curves and the log they come from."""

import json
import math
import re
import xml.etree.ElementTree as ET

import pytest

from mmclr.errors import UserError
from mmclr.report import charts, curves
from mmclr.report.axis import Axis, label


@pytest.mark.parametrize("values", [[0, 1], [3.2, 977.0], [1e-5, 2e-5], [-4.0, 4.0], [7.0, 7.0], [math.nan, 2.0, 3.0]])
def test_ticks_are_round_few_and_inside(values):
    axis = Axis.of(values, 0, 100)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 9
    assert all(axis.low - 1e-9 <= t <= axis.high + 1e-9 for t in ticks)
    assert all(0 <= axis(v) <= 100 for v in values if math.isfinite(v))
    steps = {float(f"{(b - a):.6g}") for a, b in zip(ticks, ticks[1:])}
    assert len(steps) == 1
    assert f"{steps.pop():e}"[0] in "125"


def test_logarithmic_axes_are_even_in_powers():
    axis = Axis.of([1e-4, 1e2], 0, 100, log=True)
    assert axis(1e-1) == pytest.approx(axis(1e-4) / 2 + axis(1e2) / 2, abs=0.2)
    assert 1.0 in axis.ticks()
    assert not Axis.of([0, 5], 0, 1, log=True).log


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12_500, "12.5k"), (3e6, "3M"), (0.25, "0.25"), (5e-4, "5e-4"), (1.5e-5, "1.5e-5"), (math.nan, "–")],
)
def test_labels_are_short(value, text):
    assert label(value) == text


def test_a_value_that_is_not_finite_breaks_the_line():
    svg = charts.lines("x", {"loss": ([0, 1, 2, 3, 4], [1.0, 2.0, math.nan, 2.0, 1.0])})
    path = re.search(r'class="line c0" d="([^"]+)"', svg)[1]
    assert path.count("M") == 2
    assert not re.search(r"nan|inf", path.lower())
    assert "[1.0,2.0,null,2.0,1.0]" in svg


def test_long_curves_are_thinned_and_keep_their_last_point():
    xs = list(range(100_000))
    svg = charts.lines("x", {"y": (xs, [float(x) for x in xs])})
    hover = json.loads(re.search(r'data-hover="([^"]+)"', svg)[1].replace("&quot;", '"'))
    kept = hover["series"][0]["xs"]
    assert kept[0] == 0
    assert kept[-1] == 99_999
    assert len(kept) <= charts.POINTS + 1


def test_the_mean_is_centred_and_skips_what_is_not_finite():
    assert charts.centred_mean([0, 3, 6, math.nan], 1) == [1.5, 3, 4.5, 6]
    assert charts.centred_mean([1, 5, 2], 0) == [1, 5, 2]


def test_histogram_heights_are_shares_of_each_group():
    svg = charts.histogram("h", {"a": [0.0] * 3 + [1.0], "b": [0.5]}, bins=4)
    root = ET.fromstring(re.search(r"<svg.*</svg>", svg)[0])
    assert len(root.findall(".//path")) == 2


def test_a_log_becomes_one_panel_for_each_number_that_moves(tmp_path):
    records = [
        {"step": s, "loss": 5 - s, "lr": 1e-3, "terms": {"infonce": 5 - s}, "note": "x", "ok": True} for s in range(4)
    ]
    path = tmp_path / "log.jsonl"
    resumed = [{"step": 2, "loss": 9.0}, {"event": "resumed"}]
    path.write_text("\n".join(json.dumps(r) for r in records + resumed) + '\n{"step": 5, "lo')
    (html,) = curves.draw(path).values()
    assert re.findall(r"<figcaption>([^<]*)", html) == ["loss", "terms.infonce"]  # lr never moved
    assert "9.0" in html  # the resumed run's value of step 2


def test_what_belongs_together_is_drawn_together():
    geometry = {"image_uniformity": -1.0, "text_uniformity": -2.0, "matched_5%": 0.1, "matched_mean": 0.5}
    geometry |= {"negative_mean": 0.1, "matched_variance": 0.01, "negative_variance": 0.02}
    records = [{"step": s, "loss": 5.0 - s, "clip": 5.0 - s, "left_s": 9 - s} for s in range(3)]
    records += [{"step": s, "batch": {name: v + s for name, v in geometry.items()}} for s in range(3)]
    records += [{"step": s, "eval": {f"icons/recall@{k}": s + k / 10 for k in (1, 5)}} for s in range(3)]
    found = curves.draw(records)
    titles = {part: re.findall(r"<figcaption>([^<]*)", html) for part, html in found.items()}
    assert titles == {
        "Training": ["loss"],  # the only term of a loss is the loss
        "Geometry over training": ["cosines", "variance of cosines", "uniformity"],
        "Evaluations over training": ["icons: recall"],
    }
    keys = ["pairs", "all wrong captions"]
    assert re.findall(r'class="key c.">([^<]*)', found["Geometry over training"]) == [*keys, *keys, "images", "texts"]
    assert re.findall(r'class="key c.">([^<]*)', found["Evaluations over training"]) == ["@1", "@5"]


def test_a_broken_log_says_where(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(UserError, match="line 2 is not JSON"):
        curves.read(path)
    with pytest.raises(UserError, match="no such log"):
        curves.read(tmp_path / "none.jsonl")
