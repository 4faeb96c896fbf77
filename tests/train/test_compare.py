"""Comparisons: statistics against scipy, stopped ones go on, a config that fails is told and does not end the rest."""

import io
import json

import numpy as np
import pytest
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.result import Result
from rich.console import Console
from scipy import stats

from mmclr.compare.command import main
from mmclr.compare.standings import Standings
from mmclr.compare.trial import Budget
from mmclr.errors import UserError


class Fake:
    """A trial with a known result."""

    def __init__(self, name, seed, hits, loss=1.0, rate=100.0):
        self.name, self.seed, self.hits, self.loss, self.rate = name, seed, np.asarray(hits, float), loss, rate

    def result(self, suite="retrieval"):
        if suite != "retrieval" or not len(self.hits):
            return None
        return Result.of({"r": Measurement(self.hits)}, dataset="d", model=self.name, task="t", hashes={"images": "x"})

    def log(self):
        return [{"step": i, "loss": self.loss} for i in range(4)]

    def terms(self):
        return {"clip": (3.0 + self.seed, 2.0), "own": (1.0, 1.5)}

    def samples_per_second(self):
        return self.rate


def hits(rate, seed, n=400):
    return np.random.default_rng(seed).random(n) < rate


def test_means_and_paired_differences_over_seeds():
    base, better = (
        [Fake(name, s, hits(rate, 10 * s + k), rate=r) for s in range(4)]
        for k, (name, rate, r) in enumerate((("base", 0.3, 100.0), ("better", 0.6, 50.0)))
    )
    table = Standings.of([*base, *better], "r")
    first, second = table.rows
    means = [[t.hits.mean() for t in trials] for trials in (base, better)]
    assert first.mean == pytest.approx(np.mean(means[0]))
    assert second.mean == pytest.approx(np.mean(means[1]))
    differences = np.subtract(means[1], means[0])
    assert second.difference == pytest.approx(differences.mean())
    half = stats.t.ppf(0.975, 3) * differences.std(ddof=1) / 2
    assert (second.difference_interval[1] - second.difference_interval[0]) / 2 >= half - 1e-12
    assert second.clear
    assert second.time == pytest.approx(2.0)
    assert "better" in table.to_markdown()
    assert first.terms == {"clip": (4.5, 2.0), "own": (1.0, 1.5)}
    assert "| base | clip | 4.5000 | 2.0000 | yes |" in table.to_markdown()
    assert "| base | own | 1.0000 | 1.5000 | no |" in table.to_markdown()


def test_lower_is_better_and_numbers_without_samples():
    """A metric that is one number has the seeds' interval alone; -NAME sorts and judges the other way round."""

    class Number(Fake):
        def result(self, suite="retrieval"):
            if suite == "retrieval":
                return super().result(suite)
            return Result.of({"r": self.loss, "error": self.loss}, dataset="d", model=self.name, task="probe")

    errors = {"base": [5.0, 5.1, 5.2], "good": [4.0, 4.2, 4.1], "bad": [6.0, 6.1, 6.2]}
    runs = [Number(name, s, hits(0.4, s), loss=x) for name, xs in errors.items() for s, x in enumerate(xs)]
    table = Standings.of(runs, "-error", ["retrieval", "probe"])
    assert [row.name for row in table.rows] == ["base", "good", "bad"]
    assert [row.cells()[8] for row in table.rows] == ["", "better", "worse"]
    good, differences = table.rows[1], np.subtract(errors["good"], errors["base"])
    half = stats.t.ppf(0.975, 2) * differences.std(ddof=1) / np.sqrt(3)
    assert good.detectable == pytest.approx(half)
    assert good.difference_interval == pytest.approx((differences.mean() - half, differences.mean() + half))
    assert good.others["r"] != good.others["probe/r"] == pytest.approx(4.1)  # two measures have a metric r
    assert Standings.of(runs[:1], "error", ["retrieval", "probe"]).rows[0].mean == 5.0


def test_the_table_fits_a_narrow_terminal():
    names = ["base", "improved_vl_baselines"]
    runs = [Fake(name, s, hits(0.3 + 0.3 * k, 10 * s + k)) for s in range(2) for k, name in enumerate(names)]
    console = Console(width=80, record=True, file=io.StringIO())
    table = Standings.of(runs, "r")
    table.show(console)
    shown = console.export_text()
    row = table.rows[1]
    assert "…" not in shown
    (line,) = [line for line in shown.splitlines() if names[1] in line]
    low, high = row.difference_interval
    assert line.split()[1:] == [
        f"{row.mean:.3f}",
        "..".join(f"{x:.3f}" for x in row.interval),
        f"{row.difference:+.3f}",
        f"{low:+.3f}..{high:+.3f}",
        "better",
        "1.00",
    ]


def test_equal_configs_are_not_told_apart():
    """Of many comparisons of equal models few are called clear."""
    clear = 0
    for trial in range(60):
        runs = [
            Fake(name, s, hits(0.4, 1000 * trial + 2 * s + k, 200)) for s in range(3) for k, name in enumerate("ab")
        ]
        clear += Standings.of(runs, "r").rows[1].clear
    assert clear <= 6


def test_failed_configs_are_told():
    good, bad = hits(0.5, 0), []
    runs = [
        Fake("a", 0, good),
        Fake("b", 0, bad),
        Fake("c", 0, bad),
        Fake("a", 1, good),
        Fake("b", 1, bad),
        Fake("c", 1, good),
    ]
    table = Standings.of(runs, "r")
    assert table.to_dict()["failed"] == {"b": [0, 1], "c": [0]}
    assert {row.name: row.seeds for row in table.rows} == {"a": 2, "c": 1}
    assert table.faults() == ["b: failed with seed 0, 1; it has no row", "c: failed with seed 0; its row is of 1 alone"]
    assert all(text in table.to_markdown() and text in table.page().html() for text in table.faults())
    with pytest.raises(UserError, match="has no result"):
        Standings.of([Fake("a", 0, []), Fake("b", 0, hits(0.5, 0))], "r")
    with pytest.raises(UserError, match="there is only r"):
        Standings.of([Fake("a", 0, hits(0.5, 0))], "recall")


@pytest.mark.parametrize("text", ["samples", "samples=x", "hours=3", "steps=-1"])
def test_bad_budgets(text):
    with pytest.raises(UserError, match="write samples=N"):
        Budget.parse(text)


def test_what_nothing_can_come_of_is_told_before_training(shards, tmp_path):
    out = ["--budget", "steps=1", "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="nothing.tar: no such file"):
        main(["debug.yaml", f"data.train={shards}", *out, "--test", "nothing.tar"])
    with pytest.raises(UserError, match="no usable sample in 3 shards"):
        main(["debug.yaml", f"data.train={shards}", *out, "--test", shards, "--label", "json:kind"])
    for suite, fault in {
        "kn": "--suite kn: there is no suite 'kn'; did you mean knn",
        "knn: --label json:kind": "--suite knn: .*required: --train",
        "knn: --train 'x": "No closing quotation",
        "knn: --train none.tar --label json:kind": "no sample has json",
    }.items():
        with pytest.raises(UserError, match=fault):
            main(["debug.yaml", f"data.train={shards}", *out, "--test", shards, "--suite", suite])
    with pytest.raises(UserError, match="debug, with which the others are compared: .*lrr: unknown key"):
        main(["debug.yaml", "siglip.yaml", f"data.train={shards}", *out, "--test", shards, "optim.lrr=2"])


def test_the_whole_command(shards, tmp_path, capfd):
    (tmp_path / "siglip.yaml").write_text("base: debug.yaml\nobjectives: {siglip: {}}\nmodel: {scale: 10}\n")
    (tmp_path / "headed.yaml").write_text("base: debug.yaml\nobjectives: {clip: {head: {use: mlp, out: 5}}}\n")
    (tmp_path / "broken.yaml").write_text("base: debug.yaml\noptim: {lr: 1e-3, lrr: 2}\n")
    configs = ["debug.yaml", *map(str, tmp_path.glob("*.yaml")), "debug"]  # named twice, compared once
    budget = ["--budget", "steps=3", "--seeds", "1", "--metric", "text_retrieval_recall@5"]
    command = [
        *configs,
        *budget,
        "--test",
        shards,
        "--out",
        str(tmp_path / "out"),
        "--head",
        "headed=clip",
        "--suite",
        "geometry",
        f"data.train={shards}",
    ]
    assert main(command) == 1  # broken.yaml failed
    said = capfd.readouterr().out
    assert "4/4 " in said
    assert "optim.lrr: unknown key" in said
    tree = json.loads((tmp_path / "out" / "compare.json").read_text())
    rows = {row["config"]: row for row in tree["rows"]}
    assert list(rows)[0] == "debug"
    assert rows.keys() == {"debug", "siglip", "headed"}
    assert tree["failed"] == {"broken": [0]}
    assert rows["siglip"]["difference"] is not None
    assert rows["siglip"]["metrics"]["image_effective_rank"] > 1  # of the suite that was asked for
    first, last = rows["siglip"]["terms"]["siglip"]
    log = [json.loads(line) for line in (tmp_path / "out" / "siglip" / "seed-0" / "log.jsonl").read_text().splitlines()]
    values = [row["siglip"] for row in log if "siglip" in row]
    assert (first, last) == (values[0], values[-1])
    result = json.loads((tmp_path / "out" / "headed" / "seed-0" / "eval-clip" / "retrieval.json").read_text())
    assert result["head"] == "clip"
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "loss of siglip" in page
    before = (tmp_path / "out" / "siglip" / "seed-0" / "log.jsonl").stat().st_mtime_ns
    with pytest.raises(UserError, match="write CONFIG=OBJECTIVE, CONFIG one of debug"):
        main([*command, "--head", "head=clip"])
    main(command)  # nothing is trained twice
    assert (tmp_path / "out" / "siglip" / "seed-0" / "log.jsonl").stat().st_mtime_ns == before
