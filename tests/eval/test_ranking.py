"""Ranks by tiles against a loop over sorted lists; expected hits against every order of the ties."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmclr.eval.metrics.ranking import Ranks, Relevance, rank, rank_both, top

from mmclr.errors import UserError


def brute_hits(scores, right, k):
    """Chance that a right item is among the first k, by trying every order of the equal scores."""
    n, found, orders = len(scores), 0, 0
    for shuffled in itertools.permutations(range(n)):
        place = sorted(shuffled, key=lambda i: -scores[i])
        found += any(right[i] for i in place[:k])
        orders += 1
    return found / orders


def units(n, width, generator):
    return torch.nn.functional.normalize(torch.randn(n, width, generator=generator), dim=-1)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 7))
def test_hits_are_the_mean_over_all_orders_of_ties(seed, tile):
    g = torch.Generator().manual_seed(seed)
    queries = torch.randint(-1, 2, (4, 2), generator=g).float()  # few values: many ties
    gallery = torch.randint(-1, 2, (6, 2), generator=g).float()
    query_id, item_id = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 0, 1, 2, 1, 2])
    forward, backward = rank_both(queries, gallery, Relevance.by_id(query_id, item_id), tile=tile)
    scores, right = queries @ gallery.T, query_id[:, None] == item_id
    for k in (1, 2, 5, 99):
        rows = [brute_hits(s.tolist(), r.tolist(), k) for s, r in zip(scores, right)]
        columns = [brute_hits(s.tolist(), r.tolist(), k) for s, r in zip(scores.T, right.T)]
        torch.testing.assert_close(forward.hits(k), torch.tensor(rows, dtype=torch.float64))
        torch.testing.assert_close(backward.hits(k), torch.tensor(columns, dtype=torch.float64))


def test_without_ties_equals_sorting():
    g = torch.Generator().manual_seed(0)
    images, captions = units(61, 16, g), units(61 * 5, 16, g)
    owner = torch.arange(61).repeat_interleave(5)[torch.randperm(305, generator=g)]
    forward, backward = rank_both(captions, images, Relevance.by_id(owner, torch.arange(61)), tile=17)
    place = (captions @ images.T).argsort(1, descending=True)
    expected = (place == owner[:, None]).int().argmax(1)
    assert torch.equal(forward.better, expected)
    assert forward.n_tied == 0
    by_image = (images @ captions.T).argsort(1, descending=True)
    first = (owner[by_image] == torch.arange(61)[:, None]).int().argmax(1)
    assert torch.equal(backward.better, first)
    assert torch.equal(backward.hits(5), (first < 5).double())
    assert torch.equal(forward.expected(), expected + 1.0)


def test_a_collapsed_model_gets_chance():
    captions, images = torch.ones(500, 8) / 8**0.5, torch.ones(100, 8) / 8**0.5
    forward, backward = rank_both(captions, images, Relevance.by_id(torch.arange(500) // 5, torch.arange(100)), tile=64)
    assert forward.n_tied == 500
    assert forward.hits(5).numpy() == pytest.approx(0.05, abs=1e-12)
    miss = np.prod([(495 - i) / (500 - i) for i in range(5)])
    assert backward.hits(5).numpy() == pytest.approx(1 - miss, abs=1e-12)


def test_relevance_by_id_is_every_equal_pair():
    g = torch.Generator().manual_seed(3)
    a, b = torch.randint(0, 9, (40,), generator=g), torch.randint(0, 9, (30,), generator=g)
    pairs = Relevance.by_id(a, b)
    found = set(zip(pairs.query.tolist(), pairs.item.tolist()))
    assert found == {(i, j) for i in range(40) for j in range(30) if a[i] == b[j]}
    assert len(found) == len(pairs.query)


def test_many_to_many_relations_need_no_ids():
    """Image 0 has captions a, b; image 1 has b, c: no grouping by one id says this."""
    relevance = Relevance(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 1]))
    texts = torch.eye(3)
    images = torch.tensor([[0.1, 0.2, 0.9], [0.0, 0.3, 0.2]])
    forward, backward = rank_both(texts, images, relevance)
    assert forward.better.tolist() == [0, 0, 1]
    assert backward.better.tolist() == [1, 0]


@pytest.mark.parametrize("tile", [1, 3, 100])
def test_top_is_the_sorted_head(tile):
    g = torch.Generator().manual_seed(1)
    queries, gallery = units(7, 4, g), units(20, 4, g)
    scores, index = top(queries, gallery, 5, tile=tile)
    order = (queries @ gallery.T).argsort(1, descending=True)[:, :5]
    assert torch.equal(index, order)
    torch.testing.assert_close(scores, (queries @ gallery.T).gather(1, order))
    assert top(queries, gallery, 99)[1].shape == (7, 20)


def test_broken_embeddings_are_refused():
    ids = torch.arange(3)
    broken = torch.eye(3)
    broken[1] = torch.nan
    with pytest.raises(UserError, match="1 of 3 query embeddings are not finite"):
        rank_both(broken, torch.eye(3), Relevance.by_id(ids, ids))
    with pytest.raises(UserError, match="set is empty"):
        rank_both(torch.zeros(0, 3), torch.eye(3), Relevance.by_id(ids[:0], ids))
    with pytest.raises(UserError, match="1 of 3 query entries have no right answer"):
        rank_both(torch.eye(3), torch.eye(3), Relevance.by_id(torch.tensor([0, 1, 7]), torch.tensor([0, 1, 1])))


def test_one_way_ranks_allow_items_that_are_right_for_nobody():
    g = torch.Generator().manual_seed(5)
    images, classes, label = units(50, 8, g), units(9, 8, g), torch.randint(0, 7, (50,), generator=g)
    ranks = rank(images, classes, Relevance(torch.arange(50), label), tile=4)
    expected = ((images @ classes.T).argsort(1, descending=True) == label[:, None]).int().argmax(1)
    assert torch.equal(ranks.better, expected)


def test_k_beyond_the_gallery_finds_everything():
    zero = torch.zeros(2, dtype=torch.long)
    assert Ranks(torch.tensor([4, 0]), zero, zero + 1, 5).hits(10).tolist() == [1, 1]
