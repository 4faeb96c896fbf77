"""Ranks of the right answers when a gallery is sorted by similarity: exact, both ways at once, in tiles.

The matrix of scores never exists: one matmul per tile serves the queries (rows) and the gallery (columns), and
only counts are kept. Ties are counted, not broken: a hit is the chance of finding a right answer under a random
order of equal scores, so a model that maps everything to one point gets chance and not 100 %.
Letters: Q queries, G gallery items, D embedding, R relevant pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmclr.errors import UserError

TILE = 1024  # a side of a tile; 4 MiB of float32 scores stay in the cache between matmul and count


@dataclass(frozen=True)
class Relevance:
    """Right answers to queries, as R pairs of row numbers."""

    query: Tensor  # [R] int64
    item: Tensor  # [R] int64

    @classmethod
    def by_id(cls, queries: Tensor, gallery: Tensor) -> Relevance:
        """Call an item relevant to a query where their ids are equal: ids [Q] and [G], repeats allowed."""
        order = torch.argsort(gallery, stable=True)
        ids = gallery[order]
        first, last = torch.searchsorted(ids, queries), torch.searchsorted(ids, queries, right=True)
        counts = last - first
        query = torch.repeat_interleave(torch.arange(len(queries)), counts)
        ends = counts.cumsum(0)
        within = torch.arange(len(query)) - torch.repeat_interleave(ends - counts, counts)
        return cls(query, order[torch.repeat_interleave(first, counts) + within])


@dataclass(frozen=True)
class Ranks:
    """The place of each query's best right answer: Q counts each, among `size` items."""

    better: Tensor  # [Q] wrong items scored above it
    tied: Tensor  # [Q] wrong items scored exactly as it
    partners: Tensor  # [Q] right items with this best score, itself included
    size: int  # G

    def hits(self, k: int) -> Tensor:
        """Return the chance that a right answer is among the first k, under a random order of ties: [Q] in 0..1.

        Of the tied group, k - better places are drawn: 1 - C(tied, places) / C(tied + partners, places).
        """
        places = min(k, self.size) - self.better
        miss = (places <= 0).double()
        among = (places > 0) & (places <= self.tied)
        tied, both, left = (x[among].double() for x in (self.tied, self.tied + self.partners, places))
        chance = torch.ones_like(tied)
        for i in range(int(left.max()) if len(left) else 0):
            chance *= torch.where(i < left, (tied - i).clamp(min=0) / (both - i).clamp(min=1), 1.0)
        miss[among] = chance
        return 1 - miss

    def expected(self) -> Tensor:
        """Return the expected rank of the first right answer, 1 for the top: [Q]."""
        return self.better + 1 + self.tied / (self.partners + 1)

    @property
    def n_tied(self) -> int:
        """Queries whose best right answer shares its score with a wrong item."""
        return int((self.tied > 0).sum())


def rank(queries: Tensor, gallery: Tensor, relevance: Relevance, *, tile: int = TILE) -> Ranks:
    """Rank the gallery [G, D] for each query [Q, D] by inner product. Items may be right for nobody."""
    return _rank(queries, gallery, relevance, tile, lambda tiles: None, both=False)[0]


def rank_both(
    queries: Tensor,
    gallery: Tensor,
    relevance: Relevance,
    *,
    tile: int = TILE,
    progress: Callable[[int], None] = lambda tiles: None,
) -> tuple[Ranks, Ranks]:
    """Rank the gallery for each query, and the queries for each item, in one pass over the tiles.

    Every query and every item must have a right answer. Memory is one tile beside the inputs; `progress` is
    told how many tiles each step has done.
    """
    rows, columns = _rank(queries, gallery, relevance, tile, progress, both=True)
    return rows, columns


def top(queries: Tensor, gallery: Tensor, k: int, *, tile: int = TILE) -> tuple[Tensor, Tensor]:
    """Return the k best items of each query, best first: (scores [Q, k], indices [Q, k]), k at most G."""
    k = min(k, len(gallery))
    out_scores, out_index = queries.new_empty(len(queries), k), torch.empty(len(queries), k, dtype=torch.long)
    for rows in torch.arange(len(queries)).split(tile):
        best, index = queries.new_empty(len(rows), 0), torch.empty(len(rows), 0, dtype=torch.long).to(queries.device)
        for columns in torch.arange(len(gallery), device=queries.device).split(max(tile, k)):
            scores = torch.cat([best, queries[rows] @ gallery[columns].T], 1)
            numbers = torch.cat([index, columns.expand(len(rows), -1)], 1)
            best, where = scores.topk(min(k, scores.shape[1]), 1)
            index = numbers.gather(1, where)
        out_scores[rows], out_index[rows] = best, index.to(out_index.device)
    return out_scores, out_index


def _rank(
    queries: Tensor,
    gallery: Tensor,
    relevance: Relevance,
    tile: int,
    progress: Callable[[int], None],
    both: bool,
) -> list[Ranks]:
    _refuse(queries, gallery, relevance, both)
    table = _Table(queries, gallery, relevance, tile)
    sides = [_Side(relevance.query, len(queries), len(gallery), queries)]
    sides += [_Side(relevance.item, len(gallery), len(queries), queries)] if both else []
    pair_score = queries.new_empty(len(relevance.query))
    for i, j in table.occupied:
        pairs, at = table.pairs(i, j)
        pair_score[pairs] = table.scores(i, j)[at]
    for side in sides:
        side.best(pair_score)
    for i in range(table.height):
        for j in range(table.width):
            scores = table.scores(i, j)
            scores[table.pairs(i, j)[1]] = -torch.inf  # what is right competes with nobody
            for dim, side in enumerate(sides):
                side.count(scores, table.column(j) if dim else table.row(i), 1 - dim)
        progress(table.width)
    return [side.ranks() for side in sides]


class _Table:
    """The Q x G scores as tiles that are made when asked for; the same tile is the same to the bit each time.

    Queries are taken in the order of their first right answer, so that relevant pairs lie in few tiles.
    """

    def __init__(self, queries: Tensor, gallery: Tensor, relevance: Relevance, tile: int) -> None:
        self.queries, self.gallery, self.tile = queries, gallery, tile
        first = torch.full((len(queries),), len(gallery)).scatter_reduce(0, relevance.query, relevance.item, "amin")
        self.order = first.argsort(stable=True)
        place = torch.empty_like(self.order)
        place[self.order] = torch.arange(len(queries))
        self.height, self.width = -(-len(queries) // tile), -(-len(gallery) // tile)
        self.at = place[relevance.query], relevance.item
        number = (self.at[0] // tile) * self.width + self.at[1] // tile
        self.sorted = number.argsort(stable=True)
        kinds, counts = number.unique(return_counts=True)
        ends = counts.cumsum(0)
        self.slices = {int(n): (int(e - c), int(e)) for n, c, e in zip(kinds, counts, ends)}

    @property
    def occupied(self) -> list[tuple[int, int]]:
        """The tiles that hold relevant pairs."""
        return [divmod(number, self.width) for number in self.slices]

    def row(self, i: int) -> Tensor:
        """The queries of the i-th row of tiles."""
        return self.order[i * self.tile : (i + 1) * self.tile]

    def column(self, j: int) -> Tensor:
        """The items of the j-th column of tiles."""
        return torch.arange(j * self.tile, min((j + 1) * self.tile, len(self.gallery)))

    def scores(self, i: int, j: int) -> Tensor:
        columns = self.gallery[j * self.tile : (j + 1) * self.tile]
        return self.queries[self.row(i).to(self.queries.device)] @ columns.T

    def pairs(self, i: int, j: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return which relevant pairs lie in a tile, and where in it."""
        begin, end = self.slices.get(i * self.width + j, (0, 0))
        pairs = self.sorted[begin:end]
        return pairs, (self.at[0][pairs] - i * self.tile, self.at[1][pairs] - j * self.tile)


class _Side:
    """The counts of one direction: of the rows, or of the columns."""

    def __init__(self, owner: Tensor, n: int, size: int, like: Tensor) -> None:
        self.owner, self.size, self.device = owner.to(like.device), size, like.device
        self.threshold = like.new_full((n,), -torch.inf)
        self.above, self.not_below = (torch.zeros(n, dtype=torch.long, device=like.device) for _ in range(2))
        self.partners = torch.zeros(n, dtype=torch.long, device=like.device)

    def best(self, pair_score: Tensor) -> None:
        self.threshold.scatter_reduce_(0, self.owner, pair_score, "amax")
        self.partners.scatter_add_(0, self.owner, (pair_score == self.threshold[self.owner]).long())

    def count(self, scores: Tensor, who: Tensor, dim: int) -> None:
        who = who.to(self.device)
        limit, out = self.threshold[who].unsqueeze(dim), torch.empty_like(scores)
        # comparing into floats and summing those is several times faster than summing booleans
        self.above[who] += torch.gt(scores, limit, out=out).sum(dim).long()
        self.not_below[who] += torch.ge(scores, limit, out=out).sum(dim).long()

    def ranks(self) -> Ranks:
        tied = self.not_below - self.above
        return Ranks(self.above.cpu(), tied.cpu(), self.partners.cpu(), size=self.size)


def refuse_broken(name: str, x: Tensor) -> None:
    """Raise UserError where embeddings [n, D] are not finite."""
    bad = int((~torch.isfinite(x.sum(1))).sum())  # a sum keeps every NaN and infinity
    if bad:
        raise UserError(f"{bad} of {len(x)} {name} embeddings are not finite: the model's weights are broken")


def _refuse(queries: Tensor, gallery: Tensor, relevance: Relevance, both: bool) -> None:
    for name, x, rows in (("query", queries, relevance.query), ("gallery", gallery, relevance.item)):
        if not len(x):
            raise UserError(f"there is no {name} embedding to rank: the set is empty")
        refuse_broken(name, x)
        lonely = len(x) - len(rows.unique())
        if lonely and (both or name == "query"):
            raise UserError(f"{lonely} of {len(x)} {name} entries have no right answer in the set")
