"""Clusters beside classes: every matching by hand, scikit-learn's indices, planted clusters, known and new classes."""

from itertools import permutations

import pytest
import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.sets.shards import ordinary
from mmclr.eval.suites.geometry.clustering import agreement, cluster, run
from sklearn import metrics
from torch.nn import functional as F

from mmclr.errors import UserError


def drawn(n, k, classes, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, k, (n,), generator=g), torch.randint(0, classes, (n,), generator=g)


@pytest.mark.parametrize(("k", "classes"), [(4, 4), (3, 5), (5, 3), (1, 4), (4, 1), (1, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_every_matching_and_a_peer(k, classes, seed):
    which, labels = drawn(40, k, classes, seed)
    found = agreement(which, labels)
    best = 0.0
    for names in permutations(range(max(k, classes)), k):
        best = max(best, float((torch.tensor(names)[which] == labels).double().mean()))
    assert found["accuracy"] == pytest.approx(best)
    assert found["nmi"] == pytest.approx(metrics.normalized_mutual_info_score(labels, which), abs=1e-9)
    assert found["ari"] == pytest.approx(metrics.adjusted_rand_score(labels, which), abs=1e-12)


def test_names_of_clusters_say_nothing():
    which, labels = drawn(50, 4, 4, 3)
    assert agreement(which, labels) == agreement(torch.tensor([7, 2, 9, 0])[which], labels)
    assert agreement(3 - labels, labels) == {"accuracy": 1.0, "nmi": pytest.approx(1.0), "ari": pytest.approx(1.0)}


def test_known_and_new_classes_have_one_matching():
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    which = torch.tensor([5, 5, 5, 4, 4, 5, 4, 9])
    found = agreement(which, labels, labels < 2)
    assert found["accuracy"] == pytest.approx(6 / 8)
    assert found["accuracy_known"] == pytest.approx(5 / 6)
    assert found["accuracy_new"] == pytest.approx(1 / 2)
    assert agreement(which, labels, labels < 3)["accuracy_new"] is None


def test_planted_clusters_are_found():
    """The best of several starts, whatever the first is."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 6
    x = 10 * torch.eye(8).double()[labels] + torch.randn(120, 8, generator=g, dtype=torch.float64)
    assert agreement(cluster(F.normalize(x, dim=1), 6), labels)["accuracy"] == 1


def test_a_set_is_measured(model_folder, shards, tmp_path):
    embedder = Embedder.load(model_folder, device="cpu")
    data = ordinary(shards, caption="", label="json:colour")
    known = tmp_path / "known.txt"
    known.write_text(f"{data.classnames[0]}\n\n{data.classnames[1]}\n")
    result = run(embedder, data, known=known)
    assert result.metrics["clusters"] == len(data.classnames)
    assert 0 < result.metrics["accuracy"] <= 1
    shares = (data.classes < 2).double().mean().item()
    both = shares * result.metrics["accuracy_known"] + (1 - shares) * result.metrics["accuracy_new"]
    assert both == pytest.approx(result.metrics["accuracy"])
    assert run(embedder, data, clusters=2).metrics["clusters"] == 2


def test_what_cannot_be_measured_is_told(model_folder, shards, tmp_path):
    embedder = Embedder.load(model_folder, device="cpu")
    data = ordinary(shards, caption="", label="json:colour")
    with pytest.raises(UserError, match="--clusters: 1000 clusters of 60 images; take 1 to 60"):
        run(embedder, data, clusters=1000)
    (tmp_path / "no.txt").write_text("mauve\n")
    with pytest.raises(UserError, match=r"--known .*no.txt: there is no class 'mauve' in the set"):
        run(embedder, data, known=tmp_path / "no.txt")
    with pytest.raises(UserError, match="--known .*No such file"):
        run(embedder, data, known=tmp_path / "none.txt")
    with pytest.raises(UserError, match="the set has no classes; name a label"):
        run(embedder, ordinary(shards, caption="txt"))
