"""Paired comparison: scipy's McNemar and t tests, coverage of the difference, and refusals."""

import csv
import json

import numpy as np
import pytest
from mmclr.eval.commands import compare
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.result import Result
from scipy import stats

from mmclr.errors import UserError


def result(values, name="m", hashes=None, **parts):
    measured = {"acc1": Measurement(np.asarray(values, float), unit="images", **parts)}
    return Result.of(measured, dataset="d", model=name, task="t", hashes=hashes or {"images": "1", "annotations": "2"})


def test_mcnemar_is_the_exact_binomial_test():
    rng = np.random.default_rng(0)
    a, b = rng.random(300) < 0.5, rng.random(300) < 0.6
    (found,) = compare.compare(result(a), result(b))
    wins, losses = int((b & ~a).sum()), int((a & ~b).sum())
    assert found.p_mcnemar == pytest.approx(stats.binomtest(min(wins, losses), wins + losses).pvalue)
    assert found.difference == pytest.approx(b.mean() - a.mean())
    peer = stats.norm.interval(0.95, (b * 1.0 - a).mean(), (b * 1.0 - a).std() / 300**0.5)
    assert found.interval == pytest.approx(peer)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(found.difference) / ((b * 1.0 - a).std() / 300**0.5)))


def test_the_interval_of_a_difference_holds_the_truth_and_is_shorter_than_unpaired():
    rng = np.random.default_rng(1)
    held, paired, apart = 0, 0.0, 0.0
    for _ in range(1000):
        ease = rng.random(200)  # what is easy for one is easy for the other
        a, b = (np.clip(ease + s, 0, 1) > rng.random(200) for s in (-0.05, 0.05))
        shift = (
            np.clip(np.linspace(0, 1, 100_001) + 0.05, 0, 1).mean()
            - np.clip(np.linspace(0, 1, 100_001) - 0.05, 0, 1).mean()
        )
        (found,) = compare.compare(result(a), result(b))
        held += found.interval[0] <= shift <= found.interval[1]
        paired += found.interval[1] - found.interval[0]
        apart += 2 * 1.96 * (a.var() / 200 + b.var() / 200) ** 0.5
    assert 0.93 <= held / 1000 <= 0.97
    assert paired < 0.95 * apart


def test_clusters_and_classes_are_kept():
    values, clusters = np.array([1.0, 1, 0, 0, 1, 0]), np.array([0, 0, 1, 1, 2, 2])
    (found,) = compare.compare(result(values, clusters=clusters), result(1 - values, clusters=clusters))
    assert found.n == 3
    assert found.p_mcnemar is None
    (same,) = compare.compare(result(values), result(values))
    assert (same.difference, same.p, same.p_mcnemar) == (0, 1, 1)


def test_results_of_other_sets_are_refused():
    one = result([1, 0])
    with pytest.raises(UserError, match="other images"):
        compare.compare(one, result([1, 0], hashes={"images": "9", "annotations": "2"}))
    with pytest.raises(UserError, match="no samples are kept of both"):
        compare.compare(one, Result("d", "m", "t", {"acc1": 0.5}, hashes=one.hashes))


def test_the_command_writes_tables(tmp_path, capsys):
    rng = np.random.default_rng(2)
    paths = [str(result(rng.random(50) < p, f"model{p}").save(tmp_path / f"{p}.json")) for p in (0.2, 0.8, 0.25)]
    compare.main(
        [
            *paths,
            "--csv",
            str(tmp_path / "t.csv"),
            "--markdown",
            str(tmp_path / "t.md"),
            "--out",
            str(tmp_path / "t.json"),
        ]
    )
    tree = json.loads((tmp_path / "t.json").read_text())
    assert tree["compared_with"] == "model0.2"
    assert [row["model"] for row in tree["differences"]] == ["model0.8", "model0.25"]
    assert "model0.2" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["metric"] for row in rows] == ["acc1", "acc1"]
    assert float(rows[0]["low"]) > 0
    assert (tmp_path / "t.md").read_text().count("\n") == 4
    with pytest.raises(UserError, match="two results"):
        compare.main(paths[:1])
