"""Batch fields whose values are columns: of every kind, of no other, and counted where they are classes."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from mmclr.data import columns
from mmclr.data.samples.fields import identity
from mmclr.data.shards.index import open_indices
from mmclr.errors import UserError
from mmclr.train.parts import Parts
from tests.data.made import take, write_shards


def write_columns(folder, **columns_):
    """Write columns by a rule from a sample's number."""
    for index in open_indices(sorted(map(str, folder.glob("*.tar")))):
        numbers = [int(index.key(row)) for row in range(len(index))]
        for name, (kind, rule) in columns_.items():
            with columns.write(index, name, columns.Kind.parse(kind), {}) as column:
                column.put(np.arange(len(index)), [rule(n) for n in numbers])


COLUMNS = {  # field: kind of its column, its value, what it is in the batch
    "target": ("float32", lambda n: np.nan if n % 4 == 0 else n / 2, lambda n: np.nan if n % 4 == 0 else n / 2),
    "group": ("string", lambda n: f"g{n % 3}" * (n % 5 > 0), lambda n: identity(b"g%d" % (n % 3)) if n % 5 else -1),
    "label": ("int16", lambda n: n % 6 - 1, lambda n: n % 6 - 1),
    "weights": ("float64", lambda n: np.nan if n == 7 else n, lambda n: 1 if n == 7 else n),
    "replayed": ("int8", lambda n: n % 3 - 1, lambda n: n % 3 == 2),
    "tags": ("int32[3]", lambda n: [n, -1, n], lambda n: [n, -1, -1]),
    "boxes": ("float32[8]", lambda n: [np.nan] * 4 + [0, 0.25, 0.5, 1], lambda n: [[0, 0.25, 0.5, 1], [np.nan] * 4]),
}  # fmt: skip


@pytest.mark.parametrize("workers", [0, 2])
def test_every_kind_comes_from_a_column(make_loader, tmp_path, workers):
    urls = write_shards(tmp_path, [14, 10])
    write_columns(tmp_path, **{f"its.{name}": (kind, rule) for name, (kind, rule, _) in COLUMNS.items()})
    loader = make_loader(train=urls, fields={name: f"column:its.{name}" for name in COLUMNS}, workers=workers)
    for batch in take(loader, 4):
        for row, key_ in enumerate(batch.keys):
            for name, (_, _, expected_) in COLUMNS.items():
                np.testing.assert_allclose(batch.fields[name][row].numpy(), np.array(expected_(int(key_))), rtol=1e-6)
    assert loader.ledger.counts == {}
    assert loader.classes("label") == 5
    assert loader.class_counts("label") == [4, 4, 4, 4, 4]
    assert loader.classes("group") == 0
    assert loader.class_counts("group") == loader.class_counts("target") == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [("target", "string"), ("group", "float32"), ("label", "int32[2]"), ("boxes", "float32[6]"), ("tags", "float32")],
)
def test_a_column_of_another_kind_is_told(make_loader, tmp_path, name, kind):
    urls = write_shards(tmp_path, [12])
    value = "a" if kind == "string" else np.zeros(int(kind.partition("[")[2].rstrip("]") or 0) or ())
    write_columns(tmp_path, it=(kind, lambda n: value))
    with pytest.raises(UserError, match=rf"data.fields.{name}=column:it: the column holds {re.escape(kind)}, and"):
        make_loader(train=urls, fields={name: "column:it"})
    with pytest.raises(UserError, match="there is no column other"):
        make_loader(train=urls, fields={name: "column:other"})


def test_a_bad_value_of_a_column_is_a_fault(make_loader, tmp_path):
    urls = write_shards(tmp_path, [24])
    write_columns(
        tmp_path, w=("float32", lambda n: -1.0 if n == 3 else 1.0), b=("float32[4]", lambda n: [0, 0, 1, 2 - (n != 5)])
    )
    loader = make_loader(train=urls, fields={"weights": "column:w", "boxes": "column:b"}, faults="skip", max_faults=0.9)
    take(loader, 2)
    assert loader.ledger.counts == {"bad_label": 1, "bad_field": 1}


def test_an_order_may_group_by_any_column_of_labels(make_loader, tmp_path):
    """By numbers, by texts and by the nearest of several clusters: the same batches."""
    urls = write_shards(tmp_path, [30, 18])
    rules = {
        "a": ("int64", lambda n: n % 4),
        "b": ("string", lambda n: f"{n % 4}"),
        "c": ("int32[2]", lambda n: [n % 4, 0]),
    }
    write_columns(tmp_path, **rules, f=("float32", lambda n: 1.0))
    seen = [[x.index.tolist() for x in take(make_loader(train=urls, batch=6, pure=[name]), 9)] for name in rules]
    assert seen[0] == seen[1] == seen[2]
    assert all(len({n % 4 for n in batch}) == 1 for batch in seen[0])
    with pytest.raises(UserError, match="data.order: the column f holds float32, and labels are whole"):
        make_loader(train=urls, pure=["f"])


def test_objectives_are_told_the_classes_of_a_column(make_loader, tmp_path):
    urls = write_shards(tmp_path, [24])
    write_columns(tmp_path, its=("int32", lambda n: n % 5 - 1))
    loader = make_loader(train=urls, label="column:its")
    run = SimpleNamespace(data=loader.config)
    model = SimpleNamespace(config=SimpleNamespace(embed=8, image=SimpleNamespace(width=16)))
    facts = Parts.facts(SimpleNamespace(loader=loader, model=model, steps=3, run=run))
    assert (facts.classes, facts.class_counts, facts.text_sources) == (4, (5, 5, 5, 4), 0)
    unread = make_loader(train=urls, label="json:number")  # nobody reads all samples before training
    assert (unread.classes("label"), unread.class_counts("label")) == (0, [])


def test_objectives_are_told_how_many_samples_each_source_has(make_loader, tmp_path):
    train = {"a": {"urls": write_shards(tmp_path / "a", [24])}, "b": {"urls": write_shards(tmp_path / "b", [5, 8])}}
    loader = make_loader(train=train, fields={"group": "source", "label": "source"}, text_sources=["txt", "json:title"])
    assert (loader.classes("label"), loader.class_counts("label")) == (2, [24, 13])
    run = SimpleNamespace(data=loader.config)
    model = SimpleNamespace(config=SimpleNamespace(embed=8, image=SimpleNamespace(width=16)))
    facts = Parts.facts(SimpleNamespace(loader=loader, model=model, steps=3, run=run))
    assert (facts.classes, facts.class_counts, facts.sources, facts.text_sources) == (2, (24, 13), 2, 2)
