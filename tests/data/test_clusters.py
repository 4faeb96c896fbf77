"""Cluster labels beside numbered: found again by number, of earlier versions too, refused where they do not fit."""

import numpy as np
import pytest
import torch

from mmclr.data import columns
from mmclr.data.columns import clusters
from mmclr.data.columns.clusters import groups
from mmclr.data.shards.index import open_indices
from mmclr.errors import UserError
from tests.data.labelled import all_of, label, loader, numbers, old_label
from tests.data.made import take


def test_labels_come_with_their_samples(numbered, tokenizer):
    label(numbered, lambda n: (n % 7, (n + 1) % 7), top=2)
    made = loader(numbered, tokenizer, clusters="clusters")
    assert made.cluster_count == 7
    for batch in take(made, 5):
        expected = [[n % 7, (n + 1) % 7] for n in numbers(batch)]
        assert batch.clusters.tolist() == expected
        assert batch.clusters.dtype == torch.int64
    assert batch.split(4)[1].clusters.tolist() == expected[4:]
    with pytest.raises(UserError, match="data.fields.clusters: an objective asks for clusters .*data.clusters"):
        _ = take(loader(numbered, tokenizer), 1)[0].clusters


def test_labels_in_workers_and_in_another_folder(numbered, tokenizer):
    (numbered / "labels").mkdir()
    label(numbered, lambda n: n % 5, name=f"{numbered}/labels/mine")
    made = loader(numbered, tokenizer, clusters=f"{numbered}/labels/mine", workers=2)
    for batch in take(made, 4):
        assert batch.clusters[:, 0].tolist() == [n % 5 for n in numbers(batch)]
    assert not list(numbered.glob("*.mine.arrow"))


def test_labels_that_do_not_fit_are_told(numbered, tokenizer):
    with pytest.raises(UserError, match="no cluster labels clusters of .*0.tar; .*mmclr data cluster"):
        loader(numbered, tokenizer, clusters="clusters")
    label(numbered, lambda n: 0)
    second = open_indices([str(numbered / "1.tar")])
    clusters.write(second, "clusters", [np.zeros((30, 1), np.int32)], {"clusters": 3})
    with pytest.raises(UserError, match=r"different numbers of clusters \(7 of .*0.tar, 3 of .*1.tar\)"):
        loader(numbered, tokenizer, clusters="clusters")
    clusters.write(second, "clusters", [np.zeros((30, 1), np.int32)], {"clusters": "x"})
    with pytest.raises(UserError, match="1.tar.clusters.arrow: 'x' is no number of clusters"):
        loader(numbered, tokenizer, clusters="clusters")
    with columns.write(second[0], "clusters", columns.Kind("float32")) as column:
        column.put([0], [1.0])
    with pytest.raises(UserError, match="labels are whole numbers, not float32"):
        loader(numbered, tokenizer, clusters="clusters")
    columns.look(second[0], "clusters").path.unlink()
    with pytest.raises(UserError, match="no cluster labels clusters of .*1.tar"):
        loader(numbered, tokenizer, pure=["clusters"])


def test_numbers_from_a_table_are_labels(numbered, tokenizer):
    """A column of whole numbers whose maker did not say how many there may be: as many as the largest tells."""
    for index in all_of(numbered):
        with columns.write(index, "mine", columns.Kind("int64")) as column:
            column.put(np.arange(29), [int(index.key(row)) % 6 for row in range(29)])
    made = loader(numbered, tokenizer, clusters="mine", pure=["mine"])
    assert made.cluster_count == 6
    for batch in take(made, 4):
        assert batch.clusters.tolist() == [[n % 6] for n in numbers(batch)]
        assert len(set(batch.clusters[:, 0].tolist())) == 1


def test_labels_of_earlier_versions(numbered, tokenizer):
    old_label(numbered, lambda n: n % 7)
    made = loader(numbered, tokenizer, clusters="clusters", workers=2)
    assert made.cluster_count == 7
    for batch in take(made, 4):
        assert batch.clusters[:, 0].tolist() == [n % 7 for n in numbers(batch)]
    label(numbered, lambda n: n % 5)  # new ones count
    for batch in take(loader(numbered, tokenizer, clusters="clusters"), 2):
        assert batch.clusters[:, 0].tolist() == [n % 5 for n in numbers(batch)]


def test_labels_of_earlier_versions_that_do_not_fit_are_told(numbered, tokenizer):
    old_label(numbered, lambda n: 0)
    np.save(numbered / "1.tar.clusters.npy", np.zeros((3, 1), np.int32))
    with pytest.raises(UserError, match="labels of 3 samples, the shard has 30"):
        loader(numbered, tokenizer, pure=["clusters"])
    (numbered / "1.tar.clusters.npy").unlink()
    with pytest.raises(UserError, match="1.tar.clusters.npy: there are no labels"):
        loader(numbered, tokenizer, pure=["clusters"])
    (numbered / "clusters.clusters.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        loader(numbered, tokenizer, clusters="clusters")


@pytest.mark.parametrize("labels", [np.zeros(30, np.int32), np.zeros((30, 0), np.int32), np.full((30, 1), np.nan)])
def test_files_that_are_no_labels_are_told(numbered, tokenizer, labels):
    old_label(numbered, lambda n: 0)
    np.save(numbered / "1.tar.clusters.npy", labels)
    with pytest.raises(UserError, match="labels are whole numbers"):
        loader(numbered, tokenizer, pure=["clusters"])


def test_a_label_of_no_cluster_is_one_bad_sample(numbered, tokenizer):
    label(numbered, lambda n: {33: 1 << 30, 35: -7}.get(n, 0))
    loaded = loader(numbered, tokenizer, clusters="clusters", faults="skip", max_faults=0.5)
    for _ in zip(range(loaded.batches_per_epoch), loaded):
        pass
    assert loaded.ledger.counts == {"bad_label": 2}


def test_stages_are_told_apart_by_all_their_labels():
    """Ten clusters, 3 then 7, are another group than 7 then 3."""
    found = groups([np.array([3, 7, 3, 3]), np.array([7, 3, 7, 2])])
    assert found[0] == found[2]
    assert len(set(found.tolist())) == 3
