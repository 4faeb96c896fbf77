"""Values of batch fields: each is read as its kind, or is a fault; random ones are of their kind."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmclr import batch_fields
from mmclr.batch_fields import KINDS
from mmclr.data.samples import values
from mmclr.data.samples.fields import Field, identity
from mmclr.data.samples.skipped import Fault


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [
        ("number", 3, 3.0), ("number", " -2.5e1 ", -25.0), ("number", "nan", np.nan), ("number", "", np.nan),
        ("number", [None, 4], 4.0), ("number", "x", None), ("number", True, None), ("number", "inf", None),
        ("number", 10**400, None), ("number", 1e39, None), ("number", {}, None), ("number", [[1]], None),
        ("flag", True, True), ("flag", 0, False), ("flag", "Yes", True), ("flag", 1.0, True), ("flag", "false", False),
        ("flag", 2, None), ("flag", "", None), ("flag", 0.5, None), ("flag", {}, None), ("flag", float("nan"), None),
        ("tags", [3, "4", 3, None], [3, 4]), ("tags", "5, 6,,5\n7", [5, 6, 7]), ("tags", 8, [8]),
        ("tags", [-1, 2], [2]),
        ("tags", ["a"], [identity(b"a")]), ("tags", [[1, 2]], [1]), ("tags", [{}], None), ("tags", [1 << 64], None),
        ("boxes", [0, 0, 1, 1], [[0, 0, 1, 1]]), ("boxes", [[0, 0, 0.5, 1], None], [[0, 0, 0.5, 1]]),
        ("boxes", [[0.5, 0, 0.5, 1]], None), ("boxes", [[0, 0, 1]], None), ("boxes", [[0, 0, 1, "1"]], None),
        ("boxes", [[0, 0, 1, float("nan")]], None), ("boxes", [[0, 0, 1, True]], None), ("boxes", "x", None),
        ("boxes", [[-0.1, 0, 1, 1]], None),
    ],
)  # fmt: skip
def test_a_value_is_read_or_a_fault(kind, value, found):
    read = values.READERS[kind]
    if found is None:
        with pytest.raises(Fault) as error:
            read(value, "json:x")
        assert error.value.reason in ("bad_field", "bad_label")
        assert "json:x" in error.value.detail
    else:
        np.testing.assert_equal(read(value, "json:x"), found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.sampled_from(sorted(values.READERS)))
def test_any_json_is_a_value_of_its_kind_or_a_fault(value, kind):
    class Sample:
        members = {"json": json.dumps({"x": value}).encode()}

    try:
        found = values.read(kind, Field("json:x"), Sample(), 4, [])
    except Fault:
        return
    spec = KINDS[kind]
    array = np.array(found if spec.most else [found]).astype(spec.dtype)
    assert len(array) <= (4 if spec.most else 1)
    assert not np.isinf(array.astype(float)).any()
    assert not spec.most or not np.isnan(array.astype(float)).any()


def test_every_kind_can_be_read():
    assert values.READERS.keys() == KINDS.keys() - {"clusters"}


@pytest.mark.parametrize("kind", KINDS)
def test_examples_are_of_their_kind(kind):
    spec = KINDS[kind]
    shape = [int(letter) if letter.isdigit() else 5 for letter in spec.letters]
    made = batch_fields.example(spec, shape, torch.float64, torch.Generator().manual_seed(0))
    assert list(made.shape) == shape
    if kind == "tags":
        for row in made.tolist():
            there = [tag for tag in row if tag != -1]
            assert row == there + [-1] * (5 - len(there))
            assert len(set(there)) == len(there)
    if kind == "boxes":
        there = ~made.isnan().any(-1)
        assert (there[:, 1:] <= there[:, :-1]).all()
        assert (made[there][:, :2] < made[there][:, 2:]).all()
