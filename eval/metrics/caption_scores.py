"""Likeness of captions to references in words: BLEU, ROUGE-L, CIDEr and METEOR, as COCO's evaluation computes them.

That evaluation needs Java, for its tokenizer and METEOR; the libraries without Java have no CIDEr. So the three that
are sums over n-grams are written out here, on words that `words` finds, which differ from Java's in rare marks only.
METEOR is nltk's, without synonyms.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmclr.eval.metrics.measurement import Measurement

ORDER = 4  # longest n-grams
TOKEN = re.compile(r"[^\W_]+(?:[-'’.][^\W_]+)*|[^\w\s]|_")
CONTRACTION = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))\b")
DROPPED = set("'\"`.?!,:;()[]{}-") | {"--", "..."}  # COCO's list
BETA = 1.2  # of ROUGE-L: how much more recall counts than precision
SIGMA = 6.0  # of CIDEr: the difference in length that a caption may have

Words = list[str]


def words(text: str) -> Words:
    """Return the words of a text in lower case, contractions split, punctuation left out."""
    pieces = CONTRACTION.sub(r" \1", text.lower().replace("’", "'")).split()
    return [word for piece in pieces for word in _parts(piece) if word not in DROPPED]


def _parts(piece: str) -> Words:
    return [piece] if piece.startswith("'") or piece == "n't" else TOKEN.findall(piece)


def exact(found: Sequence[Words], references: Sequence[Sequence[Words]]) -> Measurement:
    """Whether a caption has just the words of a reference."""
    return Measurement(np.array([any(c == r for r in refs) for c, refs in zip(found, references)]), unit="images")


def bleu(found: Sequence[Words], references: Sequence[Sequence[Words]]) -> Measurement:
    """Papineni et al., BLEU, ACL 2002: one number for the corpus, unsmoothed, brevity by the closest reference.

    A sample's value is its influence on that number, so that the values' mean is the number and their spread its
    error.
    """
    matches, totals = np.zeros((len(found), ORDER)), np.zeros((len(found), ORDER))
    lengths = np.zeros((len(found), 2))
    for i, (c, refs) in enumerate(zip(found, references)):
        most: Counter[tuple[str, ...]] = Counter()
        for r in refs:
            most |= _ngrams(r)
        for gram, count in _ngrams(c).items():
            totals[i, len(gram) - 1] += count
            matches[i, len(gram) - 1] += min(count, most[gram])
        lengths[i] = len(c), min((abs(len(r) - len(c)), len(r)) for r in refs)[1]
    m, t, (length, aim) = matches.sum(0), totals.sum(0), lengths.sum(0)
    if not m.all():
        return Measurement(np.zeros(len(found)), unit="images")
    value = math.exp(np.log(m / t).mean() + min(0.0, 1 - aim / length))
    influence = (matches / m - totals / t).mean(1)
    if length < aim:
        influence += lengths[:, 0] * aim / length**2 - lengths[:, 1] / length
    return Measurement(value * (1 + len(found) * influence), unit="images")


def rouge_l(found: Sequence[Words], references: Sequence[Sequence[Words]]) -> Measurement:
    """Lin, ROUGE, ACL 2004: F of the longest common subsequence; precision and recall each of the best reference."""
    return Measurement(np.array([_rouge(c, refs) for c, refs in zip(found, references)]), unit="images")


def cider(found: Sequence[Words], references: Sequence[Sequence[Words]]) -> Measurement:
    """Vedantam et al., CIDEr-D, CVPR 2015: 10 times the cosine of n-grams weighted by rarity, 0 to 10."""
    grams = [[_ngrams(r) for r in refs] for refs in references]
    seen = Counter(gram for refs in grams for gram in set().union(*refs))
    rarity = {gram: math.log(len(found) / count) for gram, count in seen.items()}
    unseen = math.log(len(found))
    values = []
    for c, refs in zip(found, grams):
        mine = _vectors(_ngrams(c), rarity, unseen)
        scores = [_cosine(mine, _vectors(r, rarity, unseen)) for r in refs]
        values.append(10 * sum(scores) / len(scores))
    return Measurement(np.array(values), unit="images", share=False)


def perplexity(costs: np.ndarray, tokens: np.ndarray) -> Measurement:
    """Return exp of the mean cost per token, from each image's sum of -log p [N] and number of tokens [N].

    A sample's value is its influence on that number, as in `bleu`.
    """
    value = math.exp(costs.sum() / tokens.sum())
    influence = (costs - costs.sum() / tokens.sum() * tokens) / tokens.sum()
    return Measurement(value * (1 + len(costs) * influence), unit="images", share=False)


def meteor(found: Sequence[Words], references: Sequence[Sequence[Words]]) -> Measurement | None:
    """Banerjee and Lavie, METEOR, 2005, with equal words and equal stems, no synonyms; None without nltk.

    Its numbers lie below those of METEOR 1.5, which knows WordNet and paraphrases, and do not compare with them.
    """
    try:
        from nltk.stem import PorterStemmer
        from nltk.translate.meteor_score import meteor_score
    except ImportError:
        return None
    stemmer, none = PorterStemmer(), _NoSynonyms()
    values = [meteor_score(list(refs), c, stemmer=stemmer, wordnet=none) for c, refs in zip(found, references)]
    return Measurement(np.array(values), unit="images")


class _NoSynonyms:
    """A WordNet that knows no word: the real one is a download."""

    def synsets(self, word: str) -> list[str]:
        return []


def _ngrams(text: Words) -> Counter[tuple[str, ...]]:
    return Counter(tuple(text[i : i + n]) for n in range(1, ORDER + 1) for i in range(len(text) - n + 1))


def _rouge(found: Words, references: Sequence[Words]) -> float:
    common = [_subsequence(found, r) for r in references]
    precision = max(c / len(found) for c in common) if found else 0.0
    recall = max(c / len(r) if r else 0.0 for c, r in zip(common, references))
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision and recall else 0.0


def _subsequence(a: Words, b: Words) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


def _vectors(
    grams: Counter[tuple[str, ...]], rarity: dict[tuple[str, ...], float], unseen: float
) -> tuple[list[dict[tuple[str, ...], float]], list[float], int]:
    """Return counts times rarity by order, their lengths, and the number of bigrams (COCO's length of a text)."""
    vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(ORDER)]
    for gram, count in grams.items():
        vectors[len(gram) - 1][gram] = count * rarity.get(gram, unseen)
    norms = [math.sqrt(sum(v * v for v in vector.values())) for vector in vectors]
    return vectors, norms, sum(count for gram, count in grams.items() if len(gram) == 2)


def _cosine(a: tuple[Any, ...], b: tuple[Any, ...]) -> float:
    """Return the mean over orders of CIDEr-D's clipped cosine of a caption and a reference."""
    (mine, norm, length), (theirs, other, aim) = a, b
    near = math.exp(-((length - aim) ** 2) / (2 * SIGMA**2))
    products = [sum(min(v, y.get(gram, 0.0)) * y.get(gram, 0.0) for gram, v in x.items()) for x, y in zip(mine, theirs)]
    return near * sum(p / (m * o) for p, m, o in zip(products, norm, other) if m and o) / ORDER
