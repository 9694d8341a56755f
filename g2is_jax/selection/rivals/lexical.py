"""Selection by words alone: BM25 retrieval, and importance resampling of n-grams (DSIR)."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from g2is_jax.runs.errors import InputError
from g2is_jax.selection.budget import Limits, Selection, take_in_order

SATURATION = 1.5  # k1 of BM25: how slowly repeating a word stops counting
LENGTH_SHARE = 0.75  # b of BM25: how much of a text's length is held against it
BUCKETS = 10_000  # that DSIR hashes its n-grams into
SMOOTHING = 1e-8  # probability that DSIR adds to every bucket


def bm25(pool_texts: Sequence[str], query_texts: Sequence[str], limits: Limits) -> Selection:
    """Takes the rows with the best lexical match to any query; equal scores by lower index.

    Give prompts on both sides: an answer's words say how a task was answered, and BM25 would hold
    its length against the prompt. The score of a row is its largest over the queries, as `less`
    takes the largest over subtasks (LESS names BM25 as a rival without saying how its queries are
    put together). A pick's component is the query that matches best, -1 where none shares a word.
    """
    _check("query", query_texts, pool_texts, limits)
    scores_N, winners_N = np.zeros(len(pool_texts)), np.full(len(pool_texts), -1)
    for query, own_N in enumerate(bm25_scores(pool_texts, query_texts)):
        better_N = own_N > scores_N
        scores_N[better_N], winners_N[better_N] = own_N[better_N], query
    order_N = np.argsort(-scores_N, kind="stable")
    reason = "best lexical match to a query"
    return take_in_order(order_N, scores_N, limits, reason, winners_N)


def bm25_scores(pool_texts: Sequence[str], query_texts: Sequence[str]) -> Iterator[np.ndarray]:
    """The BM25 scores [N] of all pool texts, one array for each query in turn.

    score(d, q) = sum over the words w of q, each as often as it occurs, of
    ln(1 + (N - n_w + 0.5) / (n_w + 0.5)) f / (f + k1 (1 - b + b |d| / mean |d|)),
    with f how often w occurs in d and n_w the number of texts that hold w: Lucene's variant, whose
    weights are never negative. Words are runs of letters, digits and underscores, in lower case.
    """
    queries = [Counter(_words(text)) for text in query_texts]
    postings: dict[str, list[tuple[int, int]]] = {word: [] for query in queries for word in query}
    lengths_N = np.zeros(len(pool_texts))
    for row, text in enumerate(pool_texts):
        counts = Counter(_words(text))
        lengths_N[row] = counts.total()
        for word in counts.keys() & postings.keys():
            postings[word].append((row, counts[word]))
    relative_N = lengths_N / max(lengths_N.mean(), 1 / len(lengths_N))
    penalties_N = SATURATION * (1 - LENGTH_SHARE + LENGTH_SHARE * relative_N)
    weights = {word: _weights(found, penalties_N) for word, found in postings.items() if found}
    for query in queries:
        scores_N = np.zeros(len(pool_texts))
        for word, times in query.items():
            if word in weights:
                rows, gains = weights[word]
                scores_N[rows] += times * gains
        yield scores_N


def _weights(found: list[tuple[int, int]], penalties_N) -> tuple[np.ndarray, np.ndarray]:
    """The rows that hold a word, and the score that one occurrence in a query adds to each."""
    rows, counts = np.array(found).T
    rarity = np.log(1 + (len(penalties_N) - len(rows) + 0.5) / (len(rows) + 0.5))
    return rows, rarity * counts / (counts + penalties_N[rows])


def dsir(
    pool_texts: Sequence[str], target_texts: Sequence[str], limits: Limits, seed: int
) -> Selection:
    """Importance resampling without replacement (Xie et al. 2023): rows in order of
    log p_target(text) / p_pool(text) + Gumbel noise, p a bag of hashed words and word pairs.

    Give prompt and answer on both sides: the distribution to match is that of whole examples.
    The score is the noisy logarithm. The same seed and pool give the same selection.
    """
    _check("target", target_texts, pool_texts, limits)
    weights_N = log_importance(pool_texts, target_texts)
    scores_N = weights_N + np.random.default_rng(seed).gumbel(size=len(weights_N))
    order_N = np.argsort(-scores_N, kind="stable")
    return take_in_order(order_N, scores_N, limits, "importance of its n-grams, with noise")


def log_importance(pool_texts: Sequence[str], target_texts: Sequence[str]) -> np.ndarray:
    """The log p_target(text) - log p_pool(text) of every pool text, [N]; 0 for an empty one."""
    target_counts = sum((_counts(_buckets(text)) for text in target_texts), _counts([]))
    if target_counts.sum() == 0:
        raise InputError("dsir: no target text holds a word; nothing can be matched to them")
    pool_buckets = [_buckets(text) for text in pool_texts]
    pool_counts = sum((_counts(buckets) for buckets in pool_buckets), _counts([]))
    gain = _log_probabilities(target_counts) - _log_probabilities(pool_counts)
    return np.array([gain[buckets].sum() for buckets in pool_buckets])


def _log_probabilities(counts: np.ndarray) -> np.ndarray:
    return np.log(counts / max(counts.sum(), 1) + SMOOTHING)


def _counts(buckets) -> np.ndarray:
    return np.bincount(np.asarray(buckets, np.int64), minlength=BUCKETS)


def _buckets(text: str) -> np.ndarray:
    """The buckets of a text's words, of its runs of other signs, and of neighbouring pairs."""
    words = re.findall(r"\w+|[^\w\s]+", text.lower())
    pairs = [f"{first} {second}" for first, second in pairwise(words)]
    return np.array([_bucket(gram) for gram in words + pairs], np.int64)


@lru_cache(maxsize=2**20)
def _bucket(gram: str) -> int:
    digest = hashlib.sha256(gram.encode("utf-8", errors="surrogatepass")).digest()
    return int.from_bytes(digest, "big") % BUCKETS


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _check(name: str, texts: Sequence[str], pool_texts: Sequence[str], limits: Limits) -> None:
    if len(texts) == 0:
        raise InputError(f"no {name} text; lexical selection needs at least one")
    if len(pool_texts) != len(limits.costs_N):
        raise ValueError(f"limits of {len(limits.costs_N)} rows, {len(pool_texts)} pool texts")
