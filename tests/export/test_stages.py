"""Models side by side: the similarity is the mean of theirs, in Python, in evaluation and from disk."""

import json
import shutil

import numpy as np
import pytest
import torch
from mmclr.eval.embed.embedder import Embedder, folder_hash

import mmclr
from mmclr.cli import main
from mmclr.errors import UserError
from mmclr.export.commands.stages import write
from mmclr.export.origin import Source
from mmclr.models import ensemble
from mmclr.models.ensemble import Stages
from tests import bounds
from tests.exports import ICONS, tokenizer, write_checkpoint

TEXTS = ["music note", "cloud", "a cloud off the music"]
WIDER = {"preset": "icons", "embed": 48, "image": {"layers": 1, "mean": [0.5, 0.4, 0.3]}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of unlike models that read the same tokens."""
    shared, root = tokenizer(), tmp_path_factory.mktemp("runs")
    return [write_checkpoint(root / str(i), tree, t=shared) for i, tree in enumerate((ICONS, WIDER))]


@pytest.fixture(scope="module")
def joined(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("joined") / "out"
    assert main(["export", "stages", *map(str, runs), str(out)]) == 0
    return out


def pictures(n=4):
    return list(np.random.default_rng(0).integers(0, 256, (n, 40, 50, 3), dtype=np.uint8))


def test_the_number_of_the_card():
    """Image features (1, 0) and (.6, .8), a text's (.8, .6) twice: the cosine is .88, the mean of .8 and .96."""
    join = Stages.join
    image = join(None, [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])], "image")
    text = join(None, [torch.tensor([[0.8, 0.6]])] * 2, "text")
    assert (image @ text.T).item() == pytest.approx(0.88)
    assert image.norm().item() == pytest.approx(1)


def test_cosines_are_the_mean_of_the_models(runs, joined):
    each = [mmclr.load(run, device="cpu") for run in runs]
    both = mmclr.load(joined, device="cpu")
    mean = np.mean([model.similarity(pictures(), TEXTS) for model in each], 0)
    np.testing.assert_allclose(both.similarity(pictures(), TEXTS), mean, atol=bounds.bound(terms=32))
    found = both.encode_image(pictures())
    assert found.shape == (4, sum(model.model.config.embed for model in each))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=bounds.bound(terms=16))
    assert both.scale == pytest.approx(np.mean([model.scale for model in each]), rel=bounds.bound(terms=16))


def test_one_model_is_itself(runs, tmp_path):
    write([Source.open(runs[0])], tmp_path / "out")
    alone, itself = mmclr.load(tmp_path / "out", device="cpu"), mmclr.load(runs[0], device="cpu")
    np.testing.assert_array_equal(alone.encode_image(pictures()), itself.encode_image(pictures()))
    np.testing.assert_array_equal(alone.encode_text(TEXTS), itself.encode_text(TEXTS))


def test_an_evaluation_reads_them(runs, joined):
    made = Embedder.load(joined, device="cpu")
    texts = made.texts(TEXTS)
    each = [Embedder.load(run, device="cpu").texts(TEXTS) for run in runs]
    torch.testing.assert_close(texts @ texts.T, sum(x @ x.T for x in each) / 2, atol=bounds.bound(terms=32), rtol=0)
    with pytest.raises(UserError, match="no one layer before the projection"):
        Embedder.load(joined, device="cpu", head="pre")


def test_caches_know_which_models_they_are(runs, tmp_path):
    for name, order in (("a", (0, 1)), ("b", (1, 0)), ("c", (0, 0))):
        write([Source.open(runs[i]) for i in order], tmp_path / name)
    hashes = [folder_hash(tmp_path / name) for name in "abc"]
    assert len(set(hashes)) == 3


def test_what_does_not_fit_is_told(runs, joined, tmp_path):
    short = {**ICONS, "text": {"context": 12}}
    other = Source.open(write_checkpoint(tmp_path / "other", short, t=tokenizer(context=12)))
    with pytest.raises(UserError, match="stage 1 reads other texts"):
        Stages([Source.open(runs[0]).model, other.model])
    with pytest.raises(UserError, match="its tokenizer is another"):
        write([Source.open(runs[0]), other], tmp_path / "out")
    grey = Source.open(write_checkpoint(tmp_path / "grey", {**ICONS, "image": {"layers": 1, "mean": [0.1] * 3}}))
    with pytest.raises(UserError, match=r"image\.mean differs"):
        Stages([Source.open(runs[0]).model, grey.model])
    for kind in ("transformers", "open_clip"):
        assert main(["export", kind, str(joined), str(tmp_path / kind)]) != 0
    with pytest.raises(UserError, match="no class of another library"):
        Source.open(joined)


def test_a_folder_that_changed_is_told(joined, tmp_path):
    assert main(["export", "verify", str(joined)]) == 0
    copy = shutil.copytree(joined, tmp_path / "copy")
    path = copy / "stage-1" / "config.json"
    path.write_text(path.read_text().replace("gelu", "quick_gelu", 1))
    with pytest.raises(UserError, match=r"stage-1: not what stages.json says"):
        ensemble.load(copy)
    path.unlink()
    with pytest.raises(UserError, match=r"config.json is missing"):
        ensemble.load(copy)
    (copy / "stages.json").write_text(json.dumps([1]))
    with pytest.raises(UserError, match="cannot be read"):
        ensemble.load(copy)
