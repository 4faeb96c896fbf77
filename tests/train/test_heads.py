"""A run's model behind the heads that it was trained with: in Python, in evaluation, and folded into an export."""

import numpy as np
import pytest
import torch
from mmclr.eval.embed.embedder import Embedder
from safetensors.torch import load_file

import mmclr
from mmclr.cli import main
from mmclr.config import load
from mmclr.errors import UserError
from mmclr.train.run import RunConfig
from mmclr.train.trainer import train
from tests import bounds

TEXTS = ["a red square", "a blue square at the top", "left"]
OBJECTIVES = """{weighed: {use: clip, head: {use: reweight, kappa: 1.3}},
    linear: {use: clip, head: {use: mlp, hidden: 0, out: 12}}, bent: {use: clip, head: {use: mlp, hidden: 8, out: 6}},
    white: {use: clip, head: {use: whiten, tail: false, group: 2}}, amcl: {heads: 2, hidden: 8, out: 6}, clip: {}}"""


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("heads") / "run"
    settings = [f"data.train={shards}", f"out={out}", "steps=3", "average.decay=0.5", f"objectives={OBJECTIVES}"]
    train(load(RunConfig, "debug.yaml", settings), quiet=True)
    return out


@pytest.fixture(scope="module")
def state(run):
    (path,) = run.glob("checkpoints/*/state/objectives.safetensors")
    return {name: value.double().numpy() for name, value in load_file(path).items()}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def relu(x, *layers):
    (a, b), (c, d) = layers
    return np.maximum(x @ a.T + b, 0) @ c.T + d


def white(x, state, side):
    """Groups of two features, whitened by eigenvectors, one group after the other."""
    covariance, out = state[f"white.head.{side}_covariance"], x - state[f"white.head.{side}_mean"]
    for i in range(0, x.shape[1], 2):
        block = covariance[i : i + 2, i : i + 2]
        values, vectors = np.linalg.eigh(block + 1e-4 * np.trace(block) / 2 * np.eye(2))
        out[:, i : i + 2] = out[:, i : i + 2] @ (vectors / np.sqrt(values)) @ vectors.T
    return unit(out)


def expected(term, x, state, side):
    """Return what the head of a term makes of embeddings."""
    if term == "weighed":
        return unit(x * 1.3 ** -np.arange(x.shape[1]))
    if term == "linear":
        return unit(x @ state[f"linear.head.{side}.weight"].T)
    if term == "white":
        return white(x, state, side)
    prefixes = ["bent.head." + side] if term == "bent" else [f"amcl.head.{side}.{i}" for i in range(2)]
    of = [[(state[f"{p}.{n}.weight"], state[f"{p}.{n}.bias"]) for n in (0, 2)] for p in prefixes]
    return np.concatenate([unit(relu(x, *layers)) for layers in of], 1) / len(of) ** 0.5


def pictures():
    return list(np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize("term", ["weighed", "linear", "bent", "white", "amcl"])
def test_the_model_behind_a_head(run, state, term):
    below, behind = (mmclr.load(run, weights="model", device="cpu", head=head) for head in ("", term))
    for side, inputs in (("image", pictures()), ("text", TEXTS)):
        x, y = (getattr(model, f"encode_{side}")(inputs) for model in (below, behind))
        np.testing.assert_allclose(y, expected(term, x.astype(float), state, side), atol=bounds.bound(terms=2048))
        made = Embedder.load(run, device="cpu", head=term, precision="float64")
        if side == "text":
            np.testing.assert_allclose(made.texts(TEXTS).numpy(), y, atol=bounds.bound(terms=2048))


def test_an_export_contains_a_linear_head(run, state, tmp_path):
    from transformers import AutoModel, AutoProcessor

    below = mmclr.load(run, weights="model", device="cpu").encode_text(TEXTS).astype(float)
    for term in ("weighed", "linear"):
        out = tmp_path / term
        assert main(["export", "transformers", str(run), str(out), "--head", term, "--dtype", "bf16"]) == 0
        assert main(["export", "verify", str(out), str(run)]) == 0
        out = tmp_path / f"{term}32"
        assert main(["export", "transformers", str(run), str(out), "--head", term]) == 0
        model, processor = AutoModel.from_pretrained(out), AutoProcessor.from_pretrained(out)
        with torch.no_grad():
            found = model.get_text_features(**processor(text=TEXTS, return_tensors="pt", padding=True))
        found = unit(getattr(found, "pooler_output", found).double().numpy())
        np.testing.assert_allclose(found, expected(term, below, state, "text"), atol=bounds.bound(terms=512))
        assert main(["export", "verify", str(out), str(run)]) == 0


@pytest.mark.parametrize("term", ["bent", "white", "amcl"])
def test_other_heads_are_refused_there(run, tmp_path, capsys, term):
    assert main(["export", "transformers", str(run), str(tmp_path / "out"), "--head", term]) != 0
    assert "this head is no linear map" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_results_and_caches_tell_heads_apart(run, shards, tmp_path):
    from mmclr.eval.sets.sources import open_set
    from mmclr.eval.suites.retrieval import retrieval

    found = {}
    for head in ("post", "weighed", "linear"):
        made = Embedder.load(run, device="cpu", head=head, cache=tmp_path)
        found[head] = retrieval.run(made, open_set(shards))
        assert found[head].to_dict()["head"] == head
    fresh = retrieval.run(Embedder.load(run, device="cpu", head="linear"), open_set(shards))
    assert fresh.metrics == found["linear"].metrics
    assert len(list(tmp_path.iterdir())) == 6  # images and texts of each


@pytest.mark.parametrize(
    ("head", "message"),
    [("clip", "objective clip has no head"), ("linaer", "no objective 'linaer'; did you mean linear")],
)
def test_heads_that_are_not_there(run, head, message):
    with pytest.raises(UserError, match=message):
        mmclr.load(run, head=head)


def test_exports_have_no_heads(run, tmp_path):
    assert main(["export", "transformers", str(run), str(tmp_path / "out")]) == 0
    with pytest.raises(UserError, match="heads are in a run's checkpoints"):
        mmclr.load(tmp_path / "out", head="linear")
