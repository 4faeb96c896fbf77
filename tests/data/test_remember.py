"""`mmclr data remember`: as many of each class, near its mean or at random, and all that a sample has."""

import json

import numpy as np
import pytest
import torch
from mmclr.data_tools.commands.curate.remember import herding, main, parts
from torch.nn import functional as F

from mmclr.data.shards.index import open_indices
from mmclr.errors import UserError
from tests.data.made import pair, write_tar

# for tests/eval/test_every_command.py
WRITES = {
    "data remember": ["{here}/shards/0.tar", "{out}", "--label", "txt", "--share", "0.5", "--pick", "random"],
}
CLASSES = ["a", "a", "b", "a", None, "c", "a", "b", "a", "a", "a", "b"]


@pytest.fixture
def shards(tmp_path):
    """Two shards of six samples, seven of class a, three of b, one of c, one of none."""
    for shard in range(2):
        members = []
        for at in range(6 * shard, 6 * shard + 6):
            sample = {**pair(at), "json": json.dumps({"class": CLASSES[at]}).encode()}
            members += [(f"{at:02d}.{ending}", data) for ending, data in sample.items()]
        write_tar(tmp_path / f"{shard}.tar", members)
    return str(tmp_path / "{0..1}.tar")


def kept(folder):
    (index,) = open_indices([str(folder / "00000.tar")])
    return [int(key) for key in map(index.key, range(len(index)))], index


def test_herding_equals_trying_all():
    x = F.normalize(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), dim=1).double()
    mean, order = x.mean(0).numpy(), []
    for i in range(1, 9):
        tried = {
            n: np.linalg.norm(mean - (x[n].numpy() + sum(x[p].numpy() for p in order)) / i)
            for n in range(12)
            if n not in order
        }
        order.append(min(tried, key=tried.get))
    assert herding(x, 8) == order
    assert herding(x, 3) == order[:3]
    assert sorted(herding(x, 99)) == list(range(12))
    off = [float((x[herding(x, n)].mean(0) - x.mean(0)).norm()) for n in (1, 4, 12)]
    assert off[0] > off[1] > off[2] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("counts", "capacity", "expected"),
    [
        ([10, 10], 6, [3, 3]),
        ([10, 1, 10], 9, [4, 1, 4]),
        ([10, 10, 10], 7, [3, 2, 2]),
        ([2, 2], 9, [2, 2]),
        ([5, 5, 5], 2, [1, 1, 0]),
        ([1, 100, 2], 10, [1, 7, 2]),
    ],
)
def test_parts_are_equal_up_to_what_there_is(counts, capacity, expected):
    assert parts(counts, capacity) == expected


def test_random_ones_of_each_class(shards, tmp_path, capsys):
    main([shards, str(tmp_path / "out"), "--label", "json:class", "--share", "0.5", "--pick", "random"])
    said = capsys.readouterr().out
    assert "5 samples of 3 classes, 1 to 2 of each" in said
    assert "has no class" in said
    numbers, index = kept(tmp_path / "out")
    assert sorted(CLASSES[n] for n in numbers) == ["a", "a", "b", "b", "c"]
    assert numbers == sorted(numbers)
    assert set(index.extensions) == {"json", "png", "txt"}
    main([shards, str(tmp_path / "again"), "--label", "json:class", "--share", "0.5", "--pick", "random"])
    assert kept(tmp_path / "again")[0] == numbers
    main([shards, str(tmp_path / "out"), "--label", "json:class", "--share", "0.5", "--pick", "random"])
    assert "5 samples of 3 classes, 1 to 2 of each" in capsys.readouterr().out  # done already
    main([shards, str(tmp_path / "b"), "--label", "json:class", "--share", "0.5", "--pick", "random", "--seed", "1"])
    assert kept(tmp_path / "b")[0] != numbers


def test_typical_ones_by_a_model(shards, tmp_path, monkeypatch):
    """With the embeddings that it gives; what has none is not chosen."""
    from mmclr.data_tools.commands.curate import remember

    vectors = F.normalize(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    there = [n for n in range(12) if n != 5]
    monkeypatch.setattr(remember.embedding, "load", lambda *_: (None, None))
    monkeypatch.setattr(remember.embedding, "embed", lambda *_: (vectors[there], there))
    main([shards, str(tmp_path / "out"), "--label", "json:class", "--share", "0.5", "--model", "m"])
    rows = [n for n in range(12) if CLASSES[n] == "a"]
    expected = [rows[at] for at in herding(vectors[rows], 3)]
    numbers, _ = kept(tmp_path / "out")
    assert {n for n in numbers if CLASSES[n] == "a"} == set(expected)
    assert len(numbers) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--share", "0"], "--share 0: it is above 0 to 1"),
        (["--share", "0.5"], "herding takes the embeddings of a model: name the task's run with --model"),
        (["--share", "0.01", "--pick", "random"], "--share 0.01 of 11 samples is less than one"),
        (["--pick", "random", "--label", "json:nothing"], "json:nothing: no sample has it"),
    ],
)
def test_what_cannot_be_chosen_is_told(words, message, shards, tmp_path):
    with pytest.raises(UserError, match=message):
        main([shards, str(tmp_path / "out"), "--label", "json:class", *words])
