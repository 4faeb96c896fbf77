"""`mmclr data label`: classes of a field are numbered alike everywhere, and what has none is counted."""

import json

import numpy as np
import pytest
from mmclr.data_tools.commands.curate import label

from mmclr.config import load
from mmclr.data import columns
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.sources import expand
from mmclr.data.stream.loader import DataConfig, Loader
from mmclr.errors import UserError
from tests.data.made import pair, write_tar

# for tests/eval/test_every_command.py
WRITES = {"data label": ["{here}/shards/0.tar", "txt", "--names", "{out}/names.txt", "--name", "{out}/label"]}
STYLES = ["noto", "fluent", None, ["noto", "x"], 7, 7.0, "noto ", {"a": 1}, "twemoji", "fluent", "noto", ""]


@pytest.fixture
def shards(tmp_path):
    """Two shards of six samples whose json says a style."""
    for shard in range(2):
        members = []
        for at, style in enumerate(STYLES[6 * shard : 6 * shard + 6]):
            sample = {**pair(6 * shard + at), "json": json.dumps({"style": style}).encode()}
            members += [(f"{6 * shard + at:02d}.{ending}", data) for ending, data in sample.items()]
        write_tar(tmp_path / f"{shard}.tar", members)
    return str(tmp_path / "{0..1}.tar")


def told(capsys, *argv):
    """Return what the command says as JSON."""
    label.main([*argv, "--json"])
    return json.loads(capsys.readouterr().out)


def values(shards, name="label"):
    return np.concatenate([columns.open_column(index, name)[1] for index in open_indices(expand(shards))]).tolist()


def test_classes_are_numbered_by_name_and_counted(shards, tmp_path, capsys):
    found = told(capsys, shards, "json:style", "--names", str(tmp_path / "names.txt"))
    assert (tmp_path / "names.txt").read_text().split() == ["7", "fluent", "noto", "twemoji"]
    assert values(shards) == [2, 1, -1, 2, 0, 0, 2, -1, 3, 1, 2, -1]
    assert found["counts"] == {"7": 2, "fluent": 2, "noto": 4, "twemoji": 1}
    assert (found["classes"], found["samples"], found["without"]) == (4, 9, 3)
    assert found["skipped"] == {"no_label": 2, "bad_label": 1}  # null and empty; an object
    config = load(DataConfig, {"train": shards, "batch": 4, "workers": 0, "label": "column:label"})
    loader = Loader(config, None, 24, 0, 0, 1, 1)
    assert (loader.classes("label"), loader.class_counts("label")) == (4, [2, 2, 4, 1])


def test_another_set_gets_the_same_numbers(shards, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("twemoji\nnoto\n")
    found = told(capsys, shards, "json:style", "--like", str(tmp_path / "names.txt"))
    assert values(shards) == [1, -1, -1, 1, -1, -1, 1, -1, 0, -1, 1, -1]
    assert found["counts"] == {"twemoji": 1, "noto": 4}
    found = told(capsys, shards, "json:style", "--least", "2", "--name", "two", "--dry-run")
    assert (found["classes"], found["without"]) == (3, 4)
    with pytest.raises(UserError, match="no column two"):
        values(shards, "two")


def test_numbers_are_ordered_by_size():
    assert label._sorted(["10", "9", "-1"]) == ["-1", "9", "10"]
    assert label._sorted(["10", "9", "a"]) == ["10", "9", "a"]


def test_what_cannot_be_labelled_is_a_sentence(shards, tmp_path, capsys):
    with pytest.raises(UserError, match=r"json:colour: no sample has it\n12 samples met: the sample has no class"):
        label.main([shards, "json:colour"])
    with pytest.raises(UserError, match="json:style: no class is left of 4 .each has fewer samples than --least 5"):
        label.main([shards, "json:style", "--least", "5"])
    (tmp_path / "twice.txt").write_text("a\na\n")
    with pytest.raises(UserError, match="one a line, each once"):
        label.main([shards, "json:style", "--like", str(tmp_path / "twice.txt")])
