"""Probes and episodes: scikit-learn, the card's worked transport, chance for a collapsed model."""

import json

import numpy as np
import pytest
import torch
from mmclr.eval.embed.embedder import Embedded, Embedder
from mmclr.eval.sets.evaluation_set import EvalSet
from mmclr.eval.sets.shards import ordinary
from mmclr.eval.suites.probes import few_shot, knn, linear_probe
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from mmclr.errors import UserError


@pytest.fixture(scope="module")
def embedder(model_folder):
    return Embedder.load(model_folder, device="cpu")


@pytest.fixture
def halves(shards):
    """Two sets of 30 images with the same six classes."""
    data = ordinary(shards, caption="", label="json:colour")
    return data.subset(range(0, 60, 2), "other half"), data.subset(range(1, 60, 2), "other half")


def test_a_linear_probe_equals_scikit_learn_at_its_penalty(embedder, shards):
    data = ordinary(shards, caption="", label="json:colour")
    train, test = data.subset(range(40), "test"), data.subset(range(40, 60), "train")
    result = linear_probe.linear_probe(embedder, train, test)
    x, z = embedder.images(train).images.double().numpy(), embedder.images(test).images.double().numpy()
    penalty = result.metrics["weight_decay"] * len(x)
    peer = LogisticRegression(C=1 / penalty, max_iter=20_000, tol=1e-8).fit(x, train.labels)
    assert result.metrics["lp_acc1"] == pytest.approx(peer.score(z, test.labels))
    assert result.metrics["lp_acc1"] > 0.5  # colours are easy
    assert result.metrics["fewshot_k"] == -1
    assert result.sizes["training_images"] == 40


def test_shots_take_so_many_of_each_class(embedder, halves):
    embedded = embedder.images(halves[0])
    x, y = linear_probe._few(embedded, 2, seed=3)
    kinds = embedded.data.labels.unique()
    assert torch.bincount(y)[kinds].tolist() == [2] * len(kinds)
    for row, label in zip(x, y):  # each image with its own class
        assert ((embedded.images == row).all(1) & (embedded.data.labels == label)).any()


def test_a_fifth_of_each_class_is_held_out():
    y = torch.tensor([0] * 10 + [1] * 5 + [2] * 1 + [3] * 3)
    held = linear_probe.held_out(y[torch.randperm(19)], 0)
    assert held.sum() == 2 + 1 + 0 + 1
    order = torch.randperm(19)
    counts = torch.bincount(y[order][linear_probe.held_out(y[order], 1)], minlength=4)
    assert counts.tolist() == [2, 1, 0, 1]


@pytest.mark.parametrize("k", [1, 7])
def test_neighbours_equal_scikit_learn(embedder, shards, k):
    data = ordinary(shards, caption="", label="json:colour")
    train, test = data.subset(range(40), "test"), data.subset(range(40, 60), "train")
    x, z = embedder.images(train).images, embedder.images(test).images

    def votes(distances):  # euclidean distances of unit vectors -> exp(cosine / T)
        return np.exp((1 - distances**2 / 2) / knn.TEMPERATURE)

    peer = KNeighborsClassifier(k, weights=votes, algorithm="brute").fit(x.double(), train.labels)
    expected = peer.score(z.double(), test.labels)
    assert knn.knn(embedder, train, test, ks=(k,)).metrics[f"knn{k}_acc1"] == pytest.approx(expected)


def test_sets_of_other_classes_are_refused(embedder, halves):
    from dataclasses import replace

    with pytest.raises(UserError, match="have other classes, for example"):
        knn.knn(embedder, replace(halves[0], classnames=["x"] * 6), halves[1])


def test_transport_has_the_cards_numbers():
    prototypes = torch.eye(2)
    queries = torch.tensor([[0.9, 0.3], [0.8, 0.4], [0.2, 0.9], [0.5, 0.7]])
    one = few_shot.transported(prototypes, queries)
    torch.testing.assert_close(one, torch.tensor([[0.849646, 0.350354], [0.349855, 0.800095]]), atol=2e-3, rtol=0)
    mixed = few_shot.transported(prototypes, queries, mix=0.7)
    torch.testing.assert_close(mixed, torch.tensor([[0.894753, 0.245247], [0.244899, 0.860067]]), atol=2e-3, rtol=0)
    smooth = few_shot.transported(prototypes, queries, smooth=0.5)
    torch.testing.assert_close(smooth, torch.tensor([[0.756455, 0.437867], [0.443538, 0.712139]]), atol=2e-3, rtol=0)
    assert torch.equal(few_shot.transported(prototypes, queries, passes=0), prototypes)
    far = few_shot.transported(prototypes, queries, smooth=1e3)
    torch.testing.assert_close(far, queries.mean(0).expand(2, 2), atol=1e-3, rtol=0)
    torch.testing.assert_close(few_shot.transported(2 * prototypes, 2 * queries), 2 * one)


def cloud_set(spread):
    """A set of 4 classes x 12 images whose `embeddings` are given by hand."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(12)
    images = torch.nn.functional.normalize(torch.eye(4, 8)[labels] + spread * torch.randn(48, 8, generator=g), dim=1)
    data = EvalSet("x", lambda i: b"", [str(i) for i in range(48)], labels=labels, classnames=list("abcd"))
    return data, images


class Given:
    """An embedder of given vectors."""

    name, pretrained, precision, hash, transform_hash, head = "given", "", "float32", "", "", "post"

    def __init__(self, data, images, texts):
        self._embedded, self._texts = Embedded(data, images, ""), texts

    def images(self, data):
        return self._embedded

    def texts(self, texts, what=""):
        return self._texts[: len(texts)]


def test_episodes_find_what_is_apart_and_chance_where_all_is_one_point():
    data, images = cloud_set(0.05)
    result = few_shot.run(Given(data, images, torch.eye(4, 8)), data, ways=3, shots=2, queries=8, episodes=20)
    assert set(result.metrics.values()) == {1.0}
    dead = Given(data, torch.ones(48, 8) / 8**0.5, torch.ones(4, 8) / 8**0.5)
    result = few_shot.run(dead, data, ways=4, shots=1, queries=8, episodes=5)
    assert result.metrics["prompt_acc1"] == pytest.approx(0.25)
    assert result.metrics["prototype_acc1"] == pytest.approx(0.25)
    with pytest.raises(UserError, match="5 classes of 21 images, and 0 of 4 classes have so many"):
        few_shot.run(dead, data, shots=1, queries=20)


def test_features_before_the_projection(shards, model_folder, tmp_path):
    data = ordinary(shards, caption="", label="json:colour")
    pre, post = (Embedder.load(model_folder, device="cpu", cache=tmp_path / "c", head=h) for h in ("pre", "post"))
    before, after = pre.images(data).images, post.images(data).images
    assert before.shape == (60, 32)
    projected = torch.nn.functional.normalize(before @ pre.model.visual_projection.weight.T, dim=1)
    torch.testing.assert_close(projected, after)
    assert knn.knn(pre, data, data, ks=(1,)).head == "pre"
    with pytest.raises(UserError, match="needs --head post"):
        pre.texts(["a"])


def test_the_commands(shards, model_folder, tmp_path):
    out = tmp_path / "r.json"
    common = [str(model_folder), "--data", shards, "--label", "json:colour", "--out", str(out), "--cache", "none"]
    knn.main([*common, "--train", shards, "--k", "1"])
    assert json.loads(out.read_text())["metrics"]["knn1_acc1"] == 1  # an image is its own neighbour
    linear_probe.main([*common, "--train", shards, "--shots", "3"])
    assert json.loads(out.read_text())["task"] == "linear_probe"
    few_shot.main([*common, "--ways", "2", "--queries", "3", "--episodes", "3"])
    assert json.loads(out.read_text())["sizes"]["ways"] == 2
