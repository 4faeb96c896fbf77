"""A suite is a file: found by its name for the command line, a list of tasks and a training."""

import importlib
import sys

import pytest
from mmclr.eval import suites
from mmclr.eval.commands import all as tasks
from mmclr.eval.suite import Suite

from mmclr.config import ConfigError
from mmclr.errors import UserError
from mmclr.train.evaluation import Evaluations

OWN = '''"""Count the images of a set."""

from mmclr.eval.result import Result
from mmclr.eval.suite import Suite


def run(embedder, data, args):
    facts = {"task": "own_count", "dataset": data.name, "model": "none"}
    return Result.of({"images": len(data)}, sizes={"images": len(data)}, seconds=0.0, **facts)


suite = Suite("own_count", __doc__, "examples:", run=run)
main = suite.main
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A suite in a further folder of the rooms, as if it had been written into one of them."""
    (tmp_path / "rooms" / "own").mkdir(parents=True)
    (tmp_path / "rooms" / "own" / "own_count.py").write_text(OWN)
    monkeypatch.setattr(suites, "__path__", [*suites.__path__, str(tmp_path / "rooms")])
    yield "own_count"
    for name in [name for name in sys.modules if name.startswith("mmclr.eval.suites.own")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", suites.names())
def test_the_files_name_is_the_suites(name):
    suite = suites.find(name)
    assert isinstance(suite, Suite)
    assert suite.name == name
    assert importlib.import_module(suite.run.__module__).main == suite.main
    assert f"mmclr eval {name} " in suite.examples


def test_a_file_is_a_suite_everywhere(own, shards, tmp_path):
    assert own in suites.names()
    (tmp_path / "tasks.yaml").write_text(f"mine: {{suite: {own}, data: '{shards}'}}\n")
    found, _ = tasks.read(tmp_path / "tasks.yaml", None)
    (result,) = tasks.run(None, found, tmp_path / "out")
    assert result.metrics["images"] == len(
        suites.find(own).open(suites.find(own).parser().parse_args(["--data", shards]))
    )
    assert Evaluations({"mine": {"suite": own, "data": shards}}).due(1, last=True) == ["mine"]


def test_a_wrong_name_is_told_the_nearest(own, tmp_path):
    (tmp_path / "tasks.yaml").write_text("mine: {suite: own_cuont, data: x}\n")
    with pytest.raises(UserError, match="mine: there is no suite 'own_cuont'; did you mean own_count"):
        tasks.read(tmp_path / "tasks.yaml", None)
    with pytest.raises(ConfigError, match=r"evaluate\.mine\.suite: there is none 'own_cuont'; did you mean own_count"):
        Evaluations({"mine": {"suite": "own_cuont", "data": "x"}})
