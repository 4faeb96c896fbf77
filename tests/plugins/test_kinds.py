"""Parts of each kind from outside of the repository: found by their keys, at work, and in no place of ours."""

import json
import re

import numpy as np
import pytest
from mmclr.eval import suites
from safetensors.torch import load_file

from mmclr import plugins, scorers, vocabulary
from mmclr.cli import main
from mmclr.config import ConfigError
from mmclr.data import columns
from mmclr.data.shards.index import open_indices
from mmclr.errors import UserError
from mmclr.models.foreign import libraries
from tests import parts
from tests.plugins.own import ALL, SUITE, write


def test_a_suite_of_ones_own(tmp_path):
    plugins.load([write(tmp_path / "own.py", SUITE.format(name="mine_counted"))])
    assert "mine_counted" in suites.names()
    with pytest.raises(SystemExit, match="x.tar is looked at"):
        suites.find("mine_counted").measure(["model", "--data", "x.tar"], None)
    assert plugins.COMMANDS["eval mine_counted"] == suites.find("mine_counted").main


def test_a_suite_of_ours_is_not_replaced(tmp_path, capsys):
    file = write(tmp_path / "own.py", SUITE.format(name="retrieval"))
    assert main(["--plugins", file, "eval", "retrieval", "x"]) == 2
    assert "'eval retrieval' is one of mmclr's own; run of" in capsys.readouterr().err
    with pytest.raises(UserError, match="the suite 'retrieval' is one of mmclr's own; run of .*own.py needs another"):
        suites.names()


USED = [
    "debug.yaml", "steps=2", "trackers=none", "providers={mirror: {}}", "data.order=own_backwards",
    "objectives={apart: {reweight: {use: halves}}}",
]  # fmt: skip


def test_a_run_takes_one_part_of_each_kind(tmp_path, shards, capsys):
    """Order, tower, provider with its row, objective, reweighter and suite; without the plugin the model is refused."""
    file, run = write(tmp_path / "own.py", ALL), tmp_path / "run"
    (tmp_path / "tower").mkdir()
    write(tmp_path / "tower" / "width.txt", "6")
    foreign = f"model.image.foreign={{source: 'own_towers:{tmp_path / 'tower'}'}}"
    asked = f"evaluate={{norms: {{suite: own_norms, data: '{shards}'}}}}"
    words = [*USED, f"data.train={shards}", f"out={run}", f"plugins=[{file}]", foreign, asked]
    assert main(["train", *words]) == 0, capsys.readouterr().err
    assert json.loads((run / "eval" / "norms.json").read_text())["metrics"]["norm"] == pytest.approx(1, abs=1e-5)
    state = load_file(next((run / "checkpoints").glob("step-*/model/model.safetensors")))
    bias = next(value for name, value in state.items() if value.shape == (6,) and name.endswith("bias"))
    assert (bias - 0.25).abs().max() < 0.1  # filled from the folder, then trained
    look = ["eval", "retrieval", str(run), "--data", shards]
    with parts.nothing_loaded():
        assert main(look) == 2
        assert "library: there is no 'own_towers'" in (said := capsys.readouterr().err)
        assert "name the plugin: --plugins" in said
        assert main([*look, "--plugins", file]) == 0
    capsys.readouterr()
    assert main(["papers", "--json"]) == 0
    told = {(e["room"], e["key"]) for e in json.loads(capsys.readouterr().out) if e["origin"] == file}
    assert told == {
        ("plugins", "apart"), ("reweighters", "halves"), ("providers", "mirror"), ("orders", "own_backwards"),
        ("libraries", "own_towers"), ("commands", "eval own_norms"),
    }  # fmt: skip


ROW = """
from mmclr import vocabulary
from mmclr.random_features import unit
vocabulary.add("{name}", vocabulary.Feature("[b, D]", "{provider}", "mine", unit("b", "D")))
"""


def test_a_row_of_the_vocabulary_takes_no_others_name(tmp_path):
    before = dict(vocabulary.FEATURES)
    with pytest.raises(UserError, match=r"line 4: there is a feature 'image' already \(unit-norm image embedding"):
        plugins.load([write(tmp_path / "own.py", ROW.format(name="image", provider="mine"))])
    plugins.load([write(tmp_path / "first.py", ROW.format(name="mine", provider="a"))])
    plugins.load([write(tmp_path / "again.py", ROW.format(name="mine", provider="a"))])  # the same is no collision
    with pytest.raises(UserError, match="there is a feature 'mine' already"):
        plugins.load([write(tmp_path / "other.py", ROW.format(name="mine", provider="b"))])
    assert {name: row for name, row in vocabulary.FEATURES.items() if name != "mine"} == before
    with pytest.raises(TypeError, match="does not support item assignment"):
        vocabulary.FEATURES["image"] = vocabulary.FEATURES["mine"]


def test_a_library_of_towers_takes_no_others_name(tmp_path):
    text = "import sys\nfrom mmclr.models.foreign import libraries\nlibraries.register('{}', sys.modules[__name__])\n"
    with pytest.raises(UserError, match="line 3: the library of towers 'transformers' is one of mmclr's own; .*own.py"):
        plugins.load([write(tmp_path / "own.py", text.format("transformers"))])
    plugins.load([write(tmp_path / "first.py", text.format("mine"))])
    with pytest.raises(UserError, match="'mine' is there already, of .*first.py; .* of .*second.py needs another key"):
        plugins.load([write(tmp_path / "second.py", text.format("mine"))])
    assert "mine" in libraries.names()


SCORER = """
import numpy as np
from mmclr.scorers import Scorer

class Bright(Scorer, key="{key}"):
    \"\"\"Score an image by its brightness, and take off the length of its text.\"\"\"

    of: float = 1.0  # white

    def score(self, {asks}):
        {returns}
"""
WORK = "return [np.asarray(i).mean() / 255 * self.of - len(t) for i, t in zip(images, texts)]"


def test_a_scorer_of_ones_own_writes_a_column(tmp_path, shards, capsys):
    file = write(tmp_path / "own.py", SCORER.format(key="bright", asks="images, texts", returns=WORK))
    words = ["data", "score", shards, "bright", "of=2", "--name", "b", "--json", "--plugins", file]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["scored"], told["samples"], told["made"]) == (32, 32, 1)
    (index,) = open_indices([shards])
    values = columns.open_column(index, "b")[1]
    means = [(8 * i + 255 - 8 * i + 90) / 3 / 255 * 2 - len(f"colour number {i}") for i in range(32)]
    np.testing.assert_allclose(values, means, rtol=1e-6)
    assert columns.look(index, "b").facts == {"scorer": "bright", "caption": "txt", "of": 2.0}
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["made"] == 0  # it is there
    assert main([*words, "of=3"]) == 2
    assert "the column b of" in capsys.readouterr().err
    assert main(["papers", "--json"]) == 0
    assert ("scorers", "bright") in {(e["room"], e["key"]) for e in json.loads(capsys.readouterr().out)}


@pytest.mark.parametrize(
    ("asks", "returns", "said"),
    [
        (
            "pictures",
            "pass",
            "line 5: TypeError: Bright.score asks for pictures; it may ask for images, texts",
        ),
        ("texts", "return 1.0", r"the scorer bright returned float64 \[\] for 32 pairs; it is to return a number"),
        ("texts", "return texts", r"the scorer bright returned <U16 \[32\] for 32 pairs"),
    ],
)
def test_a_scorer_that_is_none_is_a_sentence(asks, returns, said, tmp_path, shards, capsys):
    file = write(tmp_path / "own.py", SCORER.format(key="bright", asks=asks, returns=returns))
    assert main(["data", "score", shards, "bright", "--plugins", file]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not list(tmp_path.glob("*.arrow"))


def test_a_scorer_of_ours_is_not_replaced(tmp_path):
    with pytest.raises(UserError, match="the scorer 'similarity' is one of mmclr's own .* Bright of .*own.py needs"):
        plugins.load([write(tmp_path / "own.py", SCORER.format(key="similarity", asks="texts", returns="pass"))])
    with pytest.raises(ConfigError, match="there is no scorer 'similar'; did you mean similarity?"):
        scorers.build("similar", {})
