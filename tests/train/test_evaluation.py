"""Evaluation during training against the command that evaluates a checkpoint; the best by a named metric."""

import json
import shutil
from pathlib import Path

import pytest
from accelerate import Accelerator
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.sets.sources import open_set
from mmclr.eval.suites.geometry import loss
from mmclr.eval.suites.retrieval import retrieval

from mmclr.config import ConfigError, load
from mmclr.errors import UserError
from mmclr.train.run import RunConfig
from mmclr.train.trainer import Trainer, train
from tests import bounds, ranks
from tests.train.runs import log


@pytest.fixture(params=[0.0, 0.9])
def finished(settings, shards, tmp_path, request):
    """A run with two evaluations; with and without averaged weights."""
    names = f"{{set: {{data: '{shards}', every_steps: 4}}, held: {{suite: loss, data: '{shards}', negatives: 9}}}}"
    more = [f"evaluate={names}", "save.best=set/image_retrieval_recall@5", "save.keep=1", "diagnose_every=6"]
    train(load(RunConfig, "debug.yaml", [*settings, *more, f"average.decay={request.param}"]), quiet=True)
    return tmp_path / "run", "average" if request.param else "model"


def test_it_measures_what_the_command_measures(finished, shards):
    """On the weights that the last checkpoint holds: the averaged ones where there are."""
    run, weights = finished
    (last,) = [row for step, row in log(run, "step", "eval") if step == 12]
    data, embedder = open_set(shards), Embedder.load(run / "checkpoints" / "step-00000012" / weights)
    expected = {f"set/{k}": v for k, v in retrieval.run(embedder, data).metrics.items()}
    expected |= {f"held/{k}": v for k, v in loss.run(embedder, data, negatives=9).metrics.items()}
    assert last == pytest.approx(expected, abs=bounds.bound(terms=16))
    saved = json.loads((run / "eval" / "set.json").read_text())
    assert saved["metrics"] == pytest.approx({k.removeprefix("set/"): v for k, v in last.items() if "set/" in k})
    assert "step 12" in saved["model"]
    assert (weights == "average") == ("averaged" in saved["model"])


def test_it_comes_when_it_is_due(finished):
    run, _ = finished
    rows = log(run, "step", "eval")
    assert [step for step, _ in rows] == [4, 8, 12]
    assert ["held/loss" in row for _, row in rows] == [False, False, True]
    assert [step for step, _ in log(run, "step", "batch")] == [6, 12]
    assert {"margin", "image_accuracy", "centroid_distance"} <= log(run, "batch")[0][0].keys()


def test_the_best_checkpoint_stays(finished):
    run, _ = finished
    values = [row["set/image_retrieval_recall@5"] for _, row in log(run, "step", "eval")]
    best = [4, 8, 12][values.index(max(values))]
    found = json.loads((run / "best.json").read_text())
    assert found == {"metric": "set/image_retrieval_recall@5", "step": best, "value": max(values)}
    names = {path.name for path in (run / "checkpoints").glob("step-*")}
    assert names == {f"step-{best:08d}", "step-00000012"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{suite: retrieva, data: x}", "evaluate.a.suite: there is none 'retrieva'; did you mean retrieval?"),
        ("{data: SHARDS, labul: x}", "evaluate.a: unrecognized arguments: --labul .as an option of `mmclr eval"),
        ("{data: SHARDS, every_steps: -1}", "evaluate.a.every_steps: input should be greater"),
        ("{data: nowhere/0.tar}", "nowhere/0.tar"),
    ],
)
def test_faults_are_found_before_the_first_step(entry, message, settings, shards):
    entry = entry.replace("SHARDS", f"'{shards}'")
    with pytest.raises((ConfigError, UserError), match=message):
        train(load(RunConfig, "debug.yaml", [*settings, f"evaluate={{a: {entry}}}"]), quiet=True)


def test_minutes(settings, shards, monkeypatch):
    from mmclr.train.evaluation import Evaluations

    made = Evaluations({"a": {"data": shards, "every_minutes": 2.0}, "b": {"data": shards, "every_steps": 3}})
    assert made.due(1, False) == []
    assert made.due(3, False) == ["b"]
    assert made.due(4, True) == ["a", "b"]
    made._done["a"] -= 121
    assert made.due(5, False) == ["a"]


@pytest.mark.parametrize("suite", ["loss", "retrieval"])
def test_weights_that_are_not_finite_are_the_guards_concern(suite, settings, shards, monkeypatch, capfd):
    """An evaluation that is due then is left out, and the run stops when the guard says so."""
    take_step = Trainer.take_step

    def broken(self, batch):
        if self.taken == 4:
            self.model.text_projection.weight.data[0, 0] = float("nan")
        return take_step(self, batch)

    monkeypatch.setattr(Trainer, "take_step", broken)
    sets = f"evaluate={{set: {{suite: {suite}, data: '{shards}', every_steps: 2}}}}"
    with pytest.raises(UserError, match="step 8: .*the weight .*text_projection.weight.*\n4 such steps in a row"):
        train(load(RunConfig, "debug.yaml", [*settings, sets, "guard.stop_after=4", "average.decay=0"]))
    said = capfd.readouterr().err.replace("\n", " ")
    assert "step 6: no evaluation, the weight text_projection.weight is not finite" in said


def test_a_set_that_has_gone_ends_no_run(settings, shards, tmp_path, capfd):
    for shard in Path(shards).parent.glob("00000.tar*"):
        shutil.copy(shard, tmp_path)
    held = tmp_path / "00000.tar"
    sets = f"evaluate={{held: {{data: '{held}', every_steps: 4}}, set: {{suite: loss, data: '{shards}'}}}}"
    made = load(RunConfig, "debug.yaml", [*settings, sets])
    trainer = Trainer(made, Accelerator())
    held.unlink()
    folder = trainer.fit()
    said = capfd.readouterr().err.replace("\n", " ")
    assert folder.name == "step-00000012"
    assert "step 4: the evaluation held failed, the run goes on: " in said
    measured = {f"set/{name}" for name in ("loss", "confidence", "accuracy", "overconfidence")}
    assert [set(row) for row in [dict(row[0]) for row in log(tmp_path / "run", "eval")]] == [measured]


def test_a_result_that_cannot_be_written_ends_no_run(settings, shards, tmp_path, capfd):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "eval").write_text("a file where a folder is due")
    sets = f"evaluate={{set: {{suite: loss, data: '{shards}'}}}}"
    assert train(load(RunConfig, "debug.yaml", [*settings, "steps=2", sets])).name == "step-00000002"
    said = capfd.readouterr().err.replace("\n", " ")
    assert "step 2: the result of set cannot be written, the run goes on: " in said
    assert log(tmp_path / "run", "eval"), "its numbers are in the log"


def fail_on_one(folder, stage):
    """On two ranks: an evaluation of which one process cannot read the set, before it begins or in its middle."""
    from types import SimpleNamespace

    from mmclr import parallel
    from mmclr.train import evaluation
    from mmclr.train.evaluation import Evaluations

    def broken(*_):
        if parallel.rank() == 1:
            raise OSError(5, "Input/output error")

    suite = SimpleNamespace(
        parser=lambda: SimpleNamespace(parse_args=lambda words: None),
        open=broken if stage == "open" else lambda args: None,
        measured=broken,
    )
    made, said = Evaluations({}), []
    made.configs, made.options = {"a": SimpleNamespace(suite="s")}, {"a": []}
    evaluation.suites = SimpleNamespace(find={"s": suite}.__getitem__)  # in this process, which is the test's own
    trainer = SimpleNamespace(taken=3, display=SimpleNamespace(say=said.append))
    trainer.accelerator = SimpleNamespace(is_main_process=False)
    try:
        return made._measure("a", None, trainer), said
    except UserError as error:
        return "ended", [str(error)]


@pytest.mark.dist
def test_a_set_that_one_of_two_processes_cannot_read(tmp_path):
    """Before it begins both leave it out and go on; in its middle that process says which evaluation, and ends."""
    for result, said in ranks.run(2, fail_on_one, str(tmp_path), "open"):
        assert result is None
        assert "step 3: the evaluation a failed, the run goes on: [Errno 5] Input/output error" in said[0]
    healthy, broken = ranks.run(2, fail_on_one, str(tmp_path), "run")
    assert healthy == (None, [])
    assert broken[0] == "ended"
    assert "the evaluation a failed on process 1, and the others cannot go on without it: [Errno 5]" in broken[1][0]
