"""A tree of texts gives what the tower gives for each text alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmclr.config import check
from mmclr.models.clip import prefix_tree
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower


@pytest.fixture(scope="module")
def tower():
    tree = {
        "embed": 8,
        "image": {"size": 8, "patch": 8, "width": 8, "layers": 1, "heads": 1, "mlp": 8},
        "text": {"context": 12, "width": 16, "layers": 3, "heads": 2, "mlp": 32, "vocab": 30, "bos": 28, "eos": 29},
    }
    torch.manual_seed(0)
    return TwoTower(check(ModelConfig, tree)).double().text_model


def plain(tower, rows):
    """The features of each row alone."""
    alone = [tower(torch.tensor([row]), torch.tensor([len(row)])) for row in rows]
    return torch.cat(alone)


ROWS = [[28, 1, 2, 3, 29], [28, 1, 2, 4, 5, 29], [28, 1, 2, 3, 29], [28, 7, 29], [28, 29], [28, 1, 2, 4, 6, 29]]


@pytest.mark.parametrize("limit", [1, 6_000, 1 << 28])
def test_equals_each_text_alone(tower, limit, monkeypatch):
    monkeypatch.setattr(prefix_tree, "BYTES", limit)
    with torch.no_grad():
        torch.testing.assert_close(prefix_tree.features(tower, ROWS), plain(tower, ROWS), atol=1e-12, rtol=0)


@settings(max_examples=20)
@given(
    rows=st.lists(st.lists(st.integers(0, 2), max_size=9).map(lambda body: [28, *body, 29]), min_size=1, max_size=12)
)
def test_any_texts(tower, rows):
    with torch.no_grad():
        torch.testing.assert_close(prefix_tree.features(tower, rows), plain(tower, rows), atol=1e-12, rtol=0)
    distinct = {tuple(row[:k]) for row in rows for k in range(1, len(row) + 1)}
    assert prefix_tree.Tree.of(rows).size == len(distinct)


def test_saving():
    assert prefix_tree.saving(ROWS) == pytest.approx(27 / 13)
    assert prefix_tree.saving([[1, 2]]) == 1
