"""Cluster labels beside shards: made, found again by number, and batches drawn from one cluster at a time."""

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
from mmclr.data.columns import clusters
from mmclr.data.columns.clusters import Clusters, groups
from mmclr.data.samples.skipped import Ledger
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Shards
from mmclr.data.stream.loader import DataConfig, Loader
from mmclr.data.stream.orders.cluster_batches import ClusterBatches
from mmclr.errors import UserError
from tests import bounds
from tests.data.made import pair, take, write_tar
from tests.losses.cards import evaluate

# for tests/eval/test_every_command.py
WRITES = {
    "data cluster": ["{here}/shards/0.tar", "--model", "{here}/model", "--k", "2", "--name", "{out}/labels"],
}


@pytest.fixture
def shards(tmp_path):
    """Three shards of 30 samples whose number is in their text; the last of each has no image."""
    for shard in range(3):
        members = []
        for number in range(30 * shard, 30 * shard + 30):
            own = pair(number)
            own.pop("png") if number % 30 == 29 else None
            members += [(f"{number:04d}.{ending}", data) for ending, data in own.items()]
        write_tar(tmp_path / f"{shard}.tar", members)
    return tmp_path


def label(folder, rule, name="clusters", top=1, count=7):
    """Write labels by a rule from a sample's number to its clusters."""
    indices = open_indices(sorted(map(str, folder.glob("*.tar"))))
    keys = [index.keys() for index in indices]
    labels = [np.array([rule(int(key)) for key in own], np.int32).reshape(-1, top) for own in keys]
    clusters.write(indices, name, labels, {"clusters": count})


def old_label(folder, rule, count=7):
    """Write labels as earlier versions did: SHARD.clusters.npy and clusters.clusters.json."""
    for index in open_indices(sorted(map(str, folder.glob("*.tar")))):
        rows = np.array([[rule(int(key))] for key in map(index.key, range(len(index)))], np.int32)
        np.save(f"{index.url}.clusters.npy", rows)
    (folder / "clusters.clusters.json").write_text(json.dumps({"clusters": count}))


def loader(folder, tokenizer, rank=0, world=1, **settings):
    tree = {"train": f"{folder}/*.tar", "batch": 6, "workers": 0, **settings}
    return Loader(check(DataConfig, tree), tokenizer, 16, seed=3, rank=rank, world=world)


def numbers(batch):
    return [int(key) for key in batch.keys]


def test_labels_come_with_their_samples(shards, tokenizer):
    label(shards, lambda n: (n % 7, (n + 1) % 7), top=2)
    made = loader(shards, tokenizer, clusters="clusters")
    assert made.cluster_count == 7
    for batch in take(made, 5):
        expected = [[n % 7, (n + 1) % 7] for n in numbers(batch)]
        assert batch.clusters.tolist() == expected
        assert batch.clusters.dtype == torch.int64
    assert batch.split(4)[1].clusters.tolist() == expected[4:]
    with pytest.raises(UserError, match="data.fields.clusters: an objective asks for clusters .*data.clusters"):
        _ = take(loader(shards, tokenizer), 1)[0].clusters


def test_labels_in_workers_and_in_another_folder(shards, tokenizer):
    (shards / "labels").mkdir()
    label(shards, lambda n: n % 5, name=f"{shards}/labels/mine")
    made = loader(shards, tokenizer, clusters=f"{shards}/labels/mine", workers=2)
    for batch in take(made, 4):
        assert batch.clusters[:, 0].tolist() == [n % 5 for n in numbers(batch)]
    assert not list(shards.glob("*.mine.arrow"))


def test_labels_that_do_not_fit_are_told(shards, tokenizer):
    with pytest.raises(UserError, match="no cluster labels clusters of .*0.tar; .*mmclr data cluster"):
        loader(shards, tokenizer, clusters="clusters")
    label(shards, lambda n: 0)
    second = open_indices([str(shards / "1.tar")])
    clusters.write(second, "clusters", [np.zeros((30, 1), np.int32)], {"clusters": 3})
    with pytest.raises(UserError, match=r"different numbers of clusters \(7 of .*0.tar, 3 of .*1.tar\)"):
        loader(shards, tokenizer, clusters="clusters")
    clusters.write(second, "clusters", [np.zeros((30, 1), np.int32)], {"clusters": "x"})
    with pytest.raises(UserError, match="1.tar.clusters.arrow: 'x' is no number of clusters"):
        loader(shards, tokenizer, clusters="clusters")
    with columns.write(second[0], "clusters", columns.Kind("float32")) as column:
        column.put([0], [1.0])
    with pytest.raises(UserError, match="labels are whole numbers, not float32"):
        loader(shards, tokenizer, clusters="clusters")
    columns.look(second[0], "clusters").path.unlink()
    with pytest.raises(UserError, match="no cluster labels clusters of .*1.tar"):
        loader(shards, tokenizer, pure=["clusters"])


def test_numbers_from_a_table_are_labels(shards, tokenizer):
    """A column of whole numbers whose maker did not say how many there may be: as many as the largest tells."""
    for index in all_of(shards):
        with columns.write(index, "mine", columns.Kind("int64")) as column:
            column.put(np.arange(29), [int(index.key(row)) % 6 for row in range(29)])
    made = loader(shards, tokenizer, clusters="mine", pure=["mine"])
    assert made.cluster_count == 6
    for batch in take(made, 4):
        assert batch.clusters.tolist() == [[n % 6] for n in numbers(batch)]
        assert len(set(batch.clusters[:, 0].tolist())) == 1


def test_labels_of_earlier_versions(shards, tokenizer):
    old_label(shards, lambda n: n % 7)
    made = loader(shards, tokenizer, clusters="clusters", workers=2)
    assert made.cluster_count == 7
    for batch in take(made, 4):
        assert batch.clusters[:, 0].tolist() == [n % 7 for n in numbers(batch)]
    label(shards, lambda n: n % 5)  # new ones count
    for batch in take(loader(shards, tokenizer, clusters="clusters"), 2):
        assert batch.clusters[:, 0].tolist() == [n % 5 for n in numbers(batch)]


def test_labels_of_earlier_versions_that_do_not_fit_are_told(shards, tokenizer):
    old_label(shards, lambda n: 0)
    np.save(shards / "1.tar.clusters.npy", np.zeros((3, 1), np.int32))
    with pytest.raises(UserError, match="labels of 3 samples, the shard has 30"):
        loader(shards, tokenizer, pure=["clusters"])
    (shards / "1.tar.clusters.npy").unlink()
    with pytest.raises(UserError, match="1.tar.clusters.npy: there are no labels"):
        loader(shards, tokenizer, pure=["clusters"])
    (shards / "clusters.clusters.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        loader(shards, tokenizer, clusters="clusters")


@pytest.mark.parametrize("labels", [np.zeros(30, np.int32), np.zeros((30, 0), np.int32), np.full((30, 1), np.nan)])
def test_files_that_are_no_labels_are_told(shards, tokenizer, labels):
    old_label(shards, lambda n: 0)
    np.save(shards / "1.tar.clusters.npy", labels)
    with pytest.raises(UserError, match="labels are whole numbers"):
        loader(shards, tokenizer, pure=["clusters"])


def test_a_label_of_no_cluster_is_one_bad_sample(shards, tokenizer):
    label(shards, lambda n: {33: 1 << 30, 35: -7}.get(n, 0))
    loaded = loader(shards, tokenizer, clusters="clusters", faults="skip", max_faults=0.5)
    for _ in zip(range(loaded.batches_per_epoch), loaded):
        pass
    assert loaded.ledger.counts == {"bad_label": 2}


def test_stages_are_told_apart_by_all_their_labels():
    """Ten clusters, 3 then 7, are another group than 7 then 3."""
    found = groups([np.array([3, 7, 3, 3]), np.array([7, 3, 7, 2])])
    assert found[0] == found[2]
    assert len(set(found.tolist())) == 3


def pure(groups, batch, seed):
    order = ClusterBatches(labels=("clusters",))
    order.arrange(groups, batch, seed)
    return order


def everything(order, epochs=1):
    return order.at(np.arange(epochs * order.length, dtype=np.int64))


def test_sizes_of_the_card():
    """Clusters of 7 and 3, batches of 2: four batches, two samples left out; of 4: one."""
    labels = np.array([0] * 7 + [1] * 3)
    assert pure(labels, 2, 0).length == 8
    order = pure(labels, 4, 0)
    assert (order.length, order.left_out) == (4, {"small_group": 3})
    with pytest.raises(UserError, match=r"no group has data.batch=8 samples \(the largest has 7\)"):
        pure(labels, 8, 0)


def test_batches_are_pure_and_no_sample_comes_twice():
    labels = np.random.default_rng(0).integers(0, 5, 1003)
    order = pure(labels, 16, 7)
    sample, epoch = everything(order, 3)
    for part in sample.reshape(-1, 16):
        assert len(set(labels[part].tolist())) == 1
    for number in range(3):
        mine = sample[epoch == number]
        assert len(set(mine.tolist())) == len(mine) == order.length
        assert sorted(np.bincount(labels[mine]) // 16) == sorted(np.bincount(labels) // 16)
    first, second = (set(sample[epoch == e].tolist()) for e in (0, 1))
    assert first != second  # who is left out changes
    of_batches = labels[sample.reshape(-1, 16)[:, 0]]
    assert (np.diff(of_batches) != 0).mean() > 0.5  # clusters are mixed


def test_any_place_can_be_the_first():
    labels = np.random.default_rng(1).integers(0, 4, 200)
    order = pure(labels, 8, 7)
    sample, epoch = everything(order, 2)
    for start in (0, 13, order.length - 3, order.length + 40):
        part = order.at(np.arange(start, start + 9))
        assert part[0].tolist() == sample[start : start + 9].tolist()
        assert part[1].tolist() == epoch[start : start + 9].tolist()
    assert pure(labels, 8, 8).at(np.arange(30))[0].tolist() != sample[:30].tolist()


def test_one_cluster_is_a_plain_shuffle():
    sample, _ = everything(pure(np.zeros(64, np.int64), 8, 3))
    assert sorted(sample.tolist()) == list(range(64))


def test_substitutes_are_of_the_same_group():
    labels = np.random.default_rng(2).integers(0, 4, 200)
    order = pure(labels, 8, 7)
    sample = np.arange(200)
    others = order.others(sample, np.random.default_rng(3).integers(0, 2**63, 200).astype(np.uint64))
    assert labels[others].tolist() == labels[sample].tolist()
    assert (others != sample).mean() > 0.8


def test_ranks_share_each_pure_batch_and_a_run_goes_on(shards, tokenizer):
    """Of 87 usable samples, two labels: 4 are in a group that is smaller than a batch."""
    label(shards, lambda n: 9 if n < 4 else n % 3, name="one")
    label(shards, lambda n: 0 if n < 4 else n % 2, name="two")
    settings = {"pure": ["one", "two"]}
    alone = loader(shards, tokenizer, **settings)
    assert alone.ledger.excluded["small_group"] == 4
    batches = [numbers(batch) for batch in take(alone, 20)]
    for part in batches:
        assert len({(n % 3, n % 2) for n in part}) == 1
        assert min(part) >= 4
    ranks = [take(loader(shards, tokenizer, rank, 2, **settings), 20) for rank in range(2)]
    assert [numbers(a) + numbers(b) for a, b in zip(*ranks)] == batches
    first = loader(shards, tokenizer, **settings)
    take(first, 7)
    again = loader(shards, tokenizer, **settings)
    again.load_state_dict(first.state_dict())
    assert [numbers(batch) for batch in take(again, 5)] == batches[7:12]


def test_a_run_does_not_go_on_with_other_groups(shards, tokenizer):
    label(shards, lambda n: n % 3)
    state = loader(shards, tokenizer, pure=["clusters"]).state_dict()
    with pytest.raises(UserError, match="data.batch: .* was 6 .* is 4"):
        loader(shards, tokenizer, pure=["clusters"], batch=4).load_state_dict(state)
    label(shards, lambda n: n % 2)
    with pytest.raises(UserError, match="data.pure: the fingerprint of the groups"):
        loader(shards, tokenizer, pure=["clusters"]).load_state_dict(state)


@pytest.mark.parametrize("more", [{"tail": "pad"}, {"block": 8}, {"train": {"a": {"urls": "x"}, "b": {"urls": "y"}}}])
def test_what_pure_batches_cannot_be(more):
    with pytest.raises(UserError, match="pure draws batches of one source's single samples"):
        check(DataConfig, {"train": "x", "pure": ["clusters"], **more})


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


def test_the_command_labels_every_picture(shards, model, capsys):
    given = [f"{shards}/*.tar", "--model", str(model), "--k", "4", "--top", "2", "--batch", "32"]
    cluster.main([*given, "--dry-run"])
    assert "87 images would be embedded" in capsys.readouterr().out
    assert not list(shards.glob("*.arrow"))
    cluster.main(given)
    said = capsys.readouterr().out
    assert "87 images in 4 clusters" in said
    cluster.main([*given, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["clusters"], told["unreadable"], len(told["files"])) == (87, 4, 0, 3)
    found = Clusters([Shards(open_indices(sorted(map(str, shards.glob("*.tar")))), (), ())], "clusters")
    assert (found.count, found.top) == (4, 2)
    assert (found.nearest >= 0).all()
    made, labels = columns.open_column(open_indices([str(shards / "0.tar")])[0], "clusters")
    assert labels.shape == (30, 2)
    assert labels[29].tolist() == [-1, -1]
    assert (made.facts["clusters"], str(made.kind)) == (4, "int32[2]")
    with pytest.raises(UserError, match="only 87 readable images"):
        cluster.main([f"{shards}/*.tar", "--model", str(model), "--k", "400"])
    with pytest.raises(UserError, match="--top 5"):
        cluster.main([f"{shards}/*.tar", "--model", str(model), "--k", "4", "--top", "5"])


def test_embeddings_are_kept_and_computed_once(shards, model, capsys):
    """What is in the column is taken, what is not is embedded: a call that was ended goes on where it was."""
    given = [f"{shards}/*.tar", "--model", str(model), "--k", "4"]
    cluster.main(given)
    plain = [columns.open_column(index, "clusters")[1].copy() for index in all_of(shards)]
    cluster.main([*given, "--features", "f", "--batch", "30"])
    first = [columns.open_column(index, "f") for index in all_of(shards)]
    for index, (found, values), labels in zip(all_of(shards), first, plain):
        assert str(found.kind) == "float32[8]"
        np.testing.assert_allclose(np.linalg.norm(values[:29], axis=1), 1, rtol=1e-6)
        assert np.isnan(values[29]).all()
        assert np.array_equal(columns.open_column(index, "clusters")[1], labels)
    first[1][0].path.unlink()
    with columns.write(all_of(shards)[0], "f", columns.Kind("float32", 8), first[0][0].facts) as column:
        column.put(np.arange(29), first[0][1][28::-1])
    encoder, kept = embedding.load(model, "cpu", "f")
    ledger = Ledger()
    vectors, numbers = embedding.embed(encoder, Shards(all_of(shards), (), ()), 30, ledger, kept)
    assert numbers == list(range(87))
    expected = [first[0][1][28::-1], first[1][1][:29], first[2][1][:29]]
    np.testing.assert_array_equal(vectors.numpy(), np.concatenate(expected))
    np.testing.assert_array_equal(columns.open_column(all_of(shards)[1], "f")[1], first[1][1])


def test_kept_embeddings_in_half_and_of_another_model(shards, model):
    given = [f"{shards}/*.tar", "--model", str(model), "--k", "4", "--features", "half", "--dtype", "float16"]
    cluster.main(given)
    index = all_of(shards)[2]
    encoder, kept = embedding.load(model, "cpu", "half", "float16")
    whole, _ = embedding.embed(encoder, Shards([index], (), ()), 30)
    half, _ = embedding.embed(encoder, Shards([index], (), ()), 30, kept=kept)
    assert torch.equal(half, whole.half().float())
    assert kept.facts["transform"] == "32 px, crop, bicubic"
    with columns.write(index, "half", columns.Kind("float16", 8), {"model": "other"}):
        pass
    with pytest.raises(UserError, match="the column half of .*2.tar was made by another model"):
        cluster.main(given)


def all_of(shards):
    return open_indices(sorted(map(str, shards.glob("*.tar"))))


def test_pure_batches_are_the_papers_masked_loss():
    """The contrast within each cluster, weighed by its rows, is the mixed batch whose other clusters are masked."""
    image, text = (F.normalize(torch.randn(8, 5, dtype=torch.float64), dim=1) for _ in range(2))
    labels = torch.tensor([0, 1, 0, 0, 1, 0, 1, 0])
    s = (image @ text.T / 0.5).masked_fill(labels[:, None] != labels, -torch.inf)
    masked = (F.cross_entropy(s, torch.arange(8)) + F.cross_entropy(s.T, torch.arange(8))) / 2
    total = 0.0
    for which in (0, 1):
        mine = labels == which
        total += mine.sum().item() / 8 * evaluate("clip", (image[mine].tolist(), text[mine].tolist()), 0.5).item()
    assert total == pytest.approx(masked.item(), rel=1e-12)


def test_the_loss_of_the_card():
    """Two of a batch of three pairs are in one cluster: the value is theirs alone."""
    pairs = ([(1, 0), (0.6, 0.8)], [(0.8, 0.6), (1, 0)])
    values = [evaluate("clip", pairs, 0.5, {"image_weight": w}).item() for w in (1.0, 0.0, 0.5)]
    assert values == pytest.approx([1.014805, 1.018497, 1.016651], abs=bounds.printed(6))


def test_what_has_no_cluster_is_in_no_group_with_others():
    first, second = np.array([0, 0, -1, -1, 1, 0]), np.array([2, 2, 2, 2, 2, -1])
    found = groups([first, second])
    assert found[0] == found[1]
    assert len(set(found.tolist())) == 5
