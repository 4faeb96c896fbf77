"""mmclr data cluster: k-means, the labels that it writes, and embeddings that are kept."""

import json

import numpy as np
import pytest
import torch
from mmclr.data_tools.commands.curate import cluster
from mmclr.data_tools.lib import embedding, kmeans
from sklearn.cluster import KMeans
from torch.nn import functional as F

from mmclr.config import check
from mmclr.data import columns
from mmclr.data.columns.clusters import Clusters
from mmclr.data.samples.skipped import Ledger
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Shards
from mmclr.errors import UserError
from tests.data.labelled import all_of

# for tests/eval/test_every_command.py
WRITES = {
    "data cluster": ["{here}/shards/0.tar", "--model", "{here}/model", "--k", "2", "--name", "{out}/labels"],
}


def blobs(k=6, each=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(k, 16, generator=generator), dim=1)
    x = centres.repeat_interleave(each, 0) + 0.08 * torch.randn(k * each, 16, generator=generator)
    return F.normalize(x, dim=1), torch.arange(k).repeat_interleave(each)


def test_k_means_is_at_least_as_good_as_scikit_learn_and_finds_what_is_apart():
    x, truth = blobs()
    best = max((kmeans.fit(x, 6, 50, seed) for seed in range(4)), key=lambda c: kmeans.nearest(x, c, 1)[0].mean())
    cosines, labels = kmeans.nearest(x, best, 1)
    assert len(set(zip(labels[:, 0].tolist(), truth.tolist()))) == 6
    peer = F.normalize(torch.tensor(KMeans(6, n_init=4, random_state=0).fit(x).cluster_centers_), dim=1)
    assert cosines.mean() >= kmeans.nearest(x, peer.float(), 1)[0].mean() - 1e-4


def test_k_means_gets_better_and_leaves_no_cluster_empty():
    x, _ = blobs(each=5)
    x = torch.cat([x, x[:1].repeat(60, 1)])  # whose copies make centres that nothing is close to
    seen = []
    centres = kmeans.fit(x, 12, 30, 1, seen.append)
    assert seen == sorted(seen)
    assert torch.bincount(kmeans.nearest(x, centres, 1)[1][:, 0], minlength=12).min() > 0
    values, order = kmeans.nearest(x, centres, 3)
    exact = (x @ centres.T).sort(1, descending=True)
    torch.testing.assert_close(values, exact.values[:, :3])
    assert order.shape == (90, 3)


@pytest.fixture
def model(tmp_path, tokenizer):
    """Return the folder of a tiny model."""
    from mmclr.models.config import ModelConfig
    from mmclr.models.two_tower import TwoTower, with_tokenizer

    torch.manual_seed(0)
    tree = {
        "preset": "icons",
        "embed": 8,
        "image": {"width": 16, "layers": 1, "heads": 2, "mlp": 16},
        "text": {"width": 16, "layers": 1, "heads": 2, "mlp": 16},
    }
    t = tokenizer
    model = TwoTower(with_tokenizer(check(ModelConfig, tree), t.vocab_size, t.bos_id, t.eos_id, t.pad_id))
    model.save(tmp_path / "model")
    t.save(tmp_path / "model")
    return tmp_path / "model"


def test_the_command_labels_every_picture(numbered, model, capsys):
    given = [f"{numbered}/*.tar", "--model", str(model), "--k", "4", "--top", "2", "--batch", "32"]
    cluster.main([*given, "--dry-run"])
    assert "87 images would be embedded" in capsys.readouterr().out
    assert not list(numbered.glob("*.arrow"))
    cluster.main(given)
    said = capsys.readouterr().out
    assert "87 images in 4 clusters" in said
    cluster.main([*given, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["clusters"], told["unreadable"], len(told["files"])) == (87, 4, 0, 3)
    found = Clusters([Shards(open_indices(sorted(map(str, numbered.glob("*.tar")))), (), ())], "clusters")
    assert (found.count, found.top) == (4, 2)
    assert (found.nearest >= 0).all()
    made, labels = columns.open_column(open_indices([str(numbered / "0.tar")])[0], "clusters")
    assert labels.shape == (30, 2)
    assert labels[29].tolist() == [-1, -1]
    assert (made.facts["clusters"], str(made.kind)) == (4, "int32[2]")
    with pytest.raises(UserError, match="only 87 readable images"):
        cluster.main([f"{numbered}/*.tar", "--model", str(model), "--k", "400"])
    with pytest.raises(UserError, match="--top 5"):
        cluster.main([f"{numbered}/*.tar", "--model", str(model), "--k", "4", "--top", "5"])


def test_embeddings_are_kept_and_computed_once(numbered, model, capsys):
    """What is in the column is taken, what is not is embedded: a call that was ended goes on where it was."""
    given = [f"{numbered}/*.tar", "--model", str(model), "--k", "4"]
    cluster.main(given)
    plain = [columns.open_column(index, "clusters")[1].copy() for index in all_of(numbered)]
    cluster.main([*given, "--features", "f", "--batch", "30"])
    first = [columns.open_column(index, "f") for index in all_of(numbered)]
    for index, (found, values), labels in zip(all_of(numbered), first, plain):
        assert str(found.kind) == "float32[8]"
        np.testing.assert_allclose(np.linalg.norm(values[:29], axis=1), 1, rtol=1e-6)
        assert np.isnan(values[29]).all()
        assert np.array_equal(columns.open_column(index, "clusters")[1], labels)
    first[1][0].path.unlink()
    with columns.write(all_of(numbered)[0], "f", columns.Kind("float32", 8), first[0][0].facts) as column:
        column.put(np.arange(29), first[0][1][28::-1])
    encoder, kept = embedding.load(model, "cpu", "f")
    ledger = Ledger()
    vectors, numbers = embedding.embed(encoder, Shards(all_of(numbered), (), ()), 30, ledger, kept)
    assert numbers == list(range(87))
    expected = [first[0][1][28::-1], first[1][1][:29], first[2][1][:29]]
    np.testing.assert_array_equal(vectors.numpy(), np.concatenate(expected))
    np.testing.assert_array_equal(columns.open_column(all_of(numbered)[1], "f")[1], first[1][1])


def test_kept_embeddings_in_half_and_of_another_model(numbered, model):
    given = [f"{numbered}/*.tar", "--model", str(model), "--k", "4", "--features", "half", "--dtype", "float16"]
    cluster.main(given)
    index = all_of(numbered)[2]
    encoder, kept = embedding.load(model, "cpu", "half", "float16")
    whole, _ = embedding.embed(encoder, Shards([index], (), ()), 30)
    half, _ = embedding.embed(encoder, Shards([index], (), ()), 30, kept=kept)
    assert torch.equal(half, whole.half().float())
    assert kept.facts["transform"] == "32 px, crop, bicubic"
    with columns.write(index, "half", columns.Kind("float16", 8), {"model": "other"}):
        pass
    with pytest.raises(UserError, match="the column half of .*2.tar was made by another model"):
        cluster.main(given)
