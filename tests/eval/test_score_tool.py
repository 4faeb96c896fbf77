"""mmclr data score with a model: cosines are those of transformers, shards are scored once, faults are counted."""

import json

import numpy as np
import pytest

from mmclr.cli import main
from mmclr.data import columns
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.sources import expand

# for tests/eval/test_every_command.py
WRITES = {
    "data score": ["{here}/shards/0.tar", "similarity", "model={here}/model", "--name", "{out}/fit"],
}


def values(urls, name="similarity"):
    return np.concatenate([columns.open_column(index, name)[1] for index in open_indices(expand(urls))])


def told(capsys, *words, status=0):
    assert main(["data", "score", *words, "--json"]) == status
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def peer(toy, model_folder):
    """Cosines of images and texts as transformers computes them."""

    def cosines(texts):
        images, rows = toy.peer_features(model_folder, [toy.picture(i) for i in range(60)], texts)
        return images.numpy() @ rows.numpy().T

    return cosines


def test_the_cosine_of_each_pair(shards, model_folder, toy, peer, capsys):
    said = told(capsys, shards, "similarity", f"model={model_folder}", "--batch", "7")
    texts = [f"a {toy.COLOURS[i % 6]} {toy.SHAPES[i % 4]} {i}" for i in range(60)]
    want = np.diag(peer(texts))
    np.testing.assert_allclose(values(shards), want, atol=2e-6)
    assert (said["samples"], said["scored"], said["shards"], said["made"]) == (60, 60, 2, 2)
    assert said["mean"] == pytest.approx(want.mean(), abs=1e-6)
    assert said["percentiles"] == pytest.approx(np.percentile(want, (0, 5, 50, 95, 100)).tolist(), abs=3e-6)


def test_several_captions_of_a_sample_give_their_mean(shards, model_folder, toy, peer, capsys):
    told(capsys, shards, "similarity", f"model={model_folder}", "--caption", "json:titles", "--name", "titles")
    names = [(toy.COLOURS[i % 6], toy.SHAPES[i % 4], i) for i in range(60)]
    first, second = peer([f"{c} {s}" for c, s, _ in names]), peer([f"{s} no {i}" for _, s, i in names])
    np.testing.assert_allclose(values(shards, "titles"), (np.diag(first) + np.diag(second)) / 2, atol=2e-6)


def test_a_call_that_was_ended_goes_on_and_another_model_is_refused(shards, model_folder, tmp_path, capsys):
    words = [shards, "similarity", f"model={model_folder}"]
    dry = told(capsys, *words, "--dry-run")
    assert (dry["dry_run"], dry["samples"]) == (True, 60)
    assert not list(tmp_path.glob("*.arrow"))
    told(capsys, *words)
    before = values(shards)
    second = columns.look(open_indices(expand(shards))[1], "similarity").path
    second.unlink()
    first = columns.look(open_indices(expand(shards))[0], "similarity").path.stat().st_mtime_ns
    assert told(capsys, *words)["made"] == 1
    assert columns.look(open_indices(expand(shards))[0], "similarity").path.stat().st_mtime_ns == first
    np.testing.assert_array_equal(values(shards), before)
    assert main(["data", "score", *words, "--caption", "json:titles"]) == 2
    assert "the column similarity of" in capsys.readouterr().err


def test_what_cannot_be_read_has_no_score_and_is_counted(shards, model_folder, toy, tmp_path, capsys):
    samples = {f"q{i}": {"png": toy.picture(i), "txt": b"a red circle"} for i in range(4)}
    samples["q1"]["png"] = b"no image"
    samples["q2"]["txt"] = b"  "
    toy.write_tar(tmp_path / "9.tar", samples)
    said = told(capsys, str(tmp_path / "9.tar"), "similarity", f"model={model_folder}")
    assert (said["scored"], said["faults"]) == (2, {"bad_image": 1, "empty_caption": 1})
    assert np.isnan(values(str(tmp_path / "9.tar"))).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["similarity"], "similarity.model: missing, and it has no default"),
        (["similarity", "modle=x"], "similarity.modle: unknown key; did you mean model?"),
        (["similar", "model=x"], "there is no scorer 'similar'; did you mean similarity?"),
        (["similarity", "model"], "'model' is not an override"),
        (["similarity", "model=M", "--caption", "json:none"], "--caption=json:none: no sample has it"),
        (["similarity", "model=M", "--name", "a b"], "'a b': a column's name has letters"),
    ],
)
def test_what_cannot_be_is_a_sentence(words, said, shards, model_folder, capsys):
    words = [word.replace("=M", f"={model_folder}") for word in words]
    assert main(["data", "score", shards, *words]) == 2
    assert said in capsys.readouterr().err
