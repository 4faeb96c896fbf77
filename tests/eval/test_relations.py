"""`mmclr eval relations`: gates of pairs of classes out of a run's checkpoint, groups, names, and the picture."""

import json

import numpy as np
import pytest
import torch
from mmclr.eval.commands.relations import between, run
from safetensors.torch import load_file

from mmclr.cli import main
from mmclr.config import load
from mmclr.data import columns
from mmclr.data.shards.index import open_indices
from mmclr.errors import UserError
from mmclr.train.run import RunConfig
from mmclr.train.trainer import train
from tests.data.made import pair, write_tar

CLASSES = 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of three steps with 4 classes, one of whose terms has a head before it."""
    out = tmp_path_factory.mktemp("relations")
    members = [(f"{i:02d}.{ending}", data) for i in range(24) for ending, data in pair(i).items()]
    write_tar(out / "0.tar", members)
    (index,) = open_indices([str(out / "0.tar")])
    with columns.write(index, "four", columns.Kind("int32"), {"classes": CLASSES}) as column:
        column.put(np.arange(24), np.arange(24, dtype=np.int32) % CLASSES)
    terms = "{clip: {}, plain: {use: hydra, gate: 8}, headed: {use: hydra, gate: 8, head: {use: mlp, out: 6}}}"
    settings = [f"data.train={out}/0.tar", f"out={out}/run", "steps=3", "data.label=column:four", "data.batch=8"]
    train(load(RunConfig, "debug.yaml", [*settings, f"objectives={terms}"]), quiet=True)
    return out / "run"


def by_hand(state, term):
    """The gate of every pair of classes, in plain arithmetic."""
    code = state[f"{term}.code.weight"].double()
    pairs = [(a, b) for a in range(CLASSES) for b in range(a + 1, CLASSES)]
    x = torch.stack([(code[a] + code[b]) / 2 for a, b in pairs])
    for number, layer in enumerate(("first", "second")):
        x = x.clamp_min(0)
        x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
        x = x * state[f"{term}.made.norms.{number}.weight"] + state[f"{term}.made.norms.{number}.bias"]
        x = x @ state[f"{term}.made.{layer}.weight"].double().T + state[f"{term}.made.{layer}.bias"]
    return dict(zip(pairs, (1 / (1 + (-x).exp())).mean(1).tolist()))


@pytest.mark.parametrize("term", ["plain", "headed"])
def test_gates_of_a_checkpoint(trained, tmp_path, term):
    (path,) = trained.glob("checkpoints/*/state/objectives.safetensors")
    prefix = term if term == "plain" else "headed.objective"
    expected = by_hand(load_file(path), prefix)
    (tmp_path / "groups.txt").write_text("a\nb\na\nb\n")
    (tmp_path / "names.txt").write_text("cat\ndog\ncow\nfox\n")
    result = run(str(trained), term, tmp_path / "names.txt", tmp_path / "groups.txt")
    drawn = result.examples["relations"]
    for (a, b), value in expected.items():
        assert drawn["matrix"][a][b] == drawn["matrix"][b][a] == pytest.approx(value, rel=1e-4)
    inside = [expected[0, 2], expected[1, 3]]
    across = [value for pair, value in expected.items() if pair not in ((0, 2), (1, 3))]
    assert result.metrics["overlap_within"] == pytest.approx(sum(inside) / 2, rel=1e-4)
    assert result.metrics["overlap_across"] == pytest.approx(sum(across) / 4, rel=1e-4)
    best = max(expected, key=expected.get)
    assert drawn["pairs"][0][:2] == [drawn["classes"][i] for i in best]
    assert drawn["classes"] == ["cat", "dog", "cow", "fox"]


def test_the_report_draws_it(trained, tmp_path):
    out = tmp_path / "relations.json"
    assert main(["eval", "relations", str(trained), "--objective", "plain", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["task"] == "relations"
    assert main(["report", str(out), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "How classes are related" in page
    assert page.count('<rect class="other"') == CLASSES * (CLASSES - 1)


def test_means_between_groups():
    matrix = torch.tensor([[1.0, 0.2, 0.4], [0.2, 1, 0.6], [0.4, 0.6, 1]])
    found = between(matrix, torch.tensor([0, 0, 1]), 2)
    torch.testing.assert_close(found, torch.tensor([[0.2, 0.5], [0.5, 0.0]]))


def test_what_it_cannot_read_is_a_sentence(trained, tmp_path):
    with pytest.raises(UserError, match=r"the objective clip has no gates of classes; --objective names one of hydra"):
        run(str(trained), "clip")
    with pytest.raises(UserError, match="there is no objective 'hydra'"):
        run(str(trained))
    (tmp_path / "few.txt").write_text("cat\ndog\n")
    with pytest.raises(UserError, match=r"few.txt: 2 lines, and the run has 4 classes"):
        run(str(trained), "plain", tmp_path / "few.txt")
    (model,) = trained.glob("checkpoints/*/model")
    moved = tmp_path / "model"
    moved.symlink_to(model)
    with pytest.raises(UserError, match="in a run's checkpoints, not in exported models"):
        run(str(moved), "plain")
