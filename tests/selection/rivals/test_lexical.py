"""BM25 and DSIR against their formulas, written out word by word, and BM25 against bm25s."""

import hashlib
import math
import re

import bm25s
import numpy as np
import pytest

from g2is_jax.runs.errors import InputError
from g2is_jax.selection.budget import BudgetConfig, limits
from g2is_jax.selection.rivals.lexical import bm25, bm25_scores, dsir, log_importance
from tests.support.rival_instances import CASES, accept, check_limits, random_limits

WORDS = ("Sum", "of", "the", "primes", "x1", "naïve", "大", "WHAT", "is", "a_b", "7", "river")
SIGNS = ("?", "...", " + ", "\n", "! ", ", ")


def texts(rng, count: int) -> list[str]:
    """Random texts of 0 to 12 words and signs, some of them equal or empty."""
    made = []
    for _ in range(count):
        parts = []
        for _ in range(rng.integers(0, 13)):
            parts += [WORDS[int(rng.zipf(1.5)) % len(WORDS)], " ", SIGNS[rng.integers(6)], " "]
        made.append("".join(parts[: rng.integers(0, len(parts) + 1)]))
    made[int(rng.integers(count))] = ""
    made[int(rng.integers(count))] = made[int(rng.integers(count))]
    return made


def lexical_problem(seed: int, unit: str, cap: float):
    rng = np.random.default_rng(seed)
    pool, queries = texts(rng, int(rng.integers(8, 40))), texts(rng, int(rng.integers(1, 7)))
    return pool, queries, random_limits(rng, len(pool), unit, cap)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def plain_bm25(pool: list[str], query: str) -> list[float]:
    documents = [words(text) for text in pool]
    mean = sum(len(document) for document in documents) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in words(query):
            holding = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
            times = document.count(word)
            if times:
                penalty = 1.5 * (1 - 0.75 + 0.75 * len(document) / mean)
                score += idf * times / (times + penalty)
        scores.append(score)
    return scores


@pytest.mark.parametrize(("seed", "unit", "cap"), CASES)
def test_bm25_equals_its_formula(seed, unit, cap):
    """The largest score over the queries, from the top, equal scores by lower index."""
    pool, queries, made = lexical_problem(seed, unit, cap)
    scores = np.array([plain_bm25(pool, query) for query in queries])
    best = scores.max(axis=0)
    ranking = sorted(range(len(pool)), key=lambda row: (-round(best[row], 9), row))
    selection = bm25(pool, queries, made)
    assert selection.rows == accept(ranking, made)
    check_limits(selection, made)
    for pick in selection.picks:
        assert pick.score == pytest.approx(best[pick.row])
        if best[pick.row] == 0:
            assert pick.component == -1
        else:
            assert pick.component == int(np.round(scores[:, pick.row], 9).argmax())
    assert bm25(pool, queries, made) == selection


@pytest.mark.parametrize("seed", range(6))
def test_bm25_scores_are_those_of_the_library(seed):
    """bm25s, variant of Lucene, on the same words."""
    pool, queries, _ = lexical_problem(seed, "rows", 1.0)
    index = bm25s.BM25(k1=1.5, b=0.75, method="lucene", dtype="float64")
    index.index([words(text) for text in pool], show_progress=False)
    for query, scores_N in zip(queries, bm25_scores(pool, queries), strict=True):
        known = [word for word in words(query) if word in index.vocab_dict]
        expected_N = index.get_scores(known) if known else np.zeros(len(pool))
        np.testing.assert_allclose(scores_N, expected_N, rtol=1e-6, atol=1e-9)


def test_bm25_of_texts_without_words():
    """Nothing matches: file order, no component."""
    made = limits(BudgetConfig(2, "rows", 1.0), np.ones(3, int), np.zeros(3, int))
    for pool, queries in ((["", " ?", ""], ["sum"]), (["sum", "of", "a"], ["", "..."])):
        selection = bm25(pool, queries, made)
        assert selection.rows == [0, 1]
        assert [(pick.score, pick.component) for pick in selection.picks] == [(0, -1)] * 2


def plain_log_importance(pool: list[str], target: list[str]) -> np.ndarray:
    """Computes it like the package of DSIR's authors: counts of every bucket, kept dense."""

    def counts(text: str) -> np.ndarray:
        tokens = re.findall(r"\w+|[^\w\s]+", text.lower())
        pairs = [" ".join(tokens[i : i + 2]) for i in range(len(tokens) - 1)]
        found = np.zeros(10_000, int)
        for gram in tokens + pairs:
            found[int(hashlib.sha256(gram.encode("utf-8")).hexdigest(), 16) % 10_000] += 1
        return found

    def probabilities(many: list[str]) -> np.ndarray:
        total = np.sum([counts(text) for text in many], axis=0)
        return total / total.sum()

    gain = np.log(probabilities(target) + 1e-8) - np.log(probabilities(pool) + 1e-8)
    return np.array([np.inner(counts(text), gain) for text in pool])


@pytest.mark.parametrize(("seed", "unit", "cap"), CASES)
def test_dsir_equals_its_formula(seed, unit, cap):
    """The n-grams' log importance plus seeded Gumbel noise, from the top."""
    pool, target, made = lexical_problem(seed + 10, unit, cap)
    target.append("What is the sum?")
    weights_N = plain_log_importance(pool, target)
    np.testing.assert_allclose(log_importance(pool, target), weights_N, rtol=1e-9, atol=1e-9)
    noisy_N = weights_N + np.random.default_rng(seed).gumbel(size=len(pool))
    selection = dsir(pool, target, made, seed)
    assert selection.rows == accept(np.argsort(-noisy_N, kind="stable").tolist(), made)
    check_limits(selection, made)
    assert [pick.score for pick in selection.picks] == pytest.approx(noisy_N[selection.rows])
    assert {pick.component for pick in selection.picks} == {-1}
    assert dsir(pool, target, made, seed) == selection


def test_dsir_draws_in_proportion_to_the_importance():
    """Over many seeds the first row is a draw with probabilities in proportion to the weights."""
    pool, target = ["a b", "b a", "c", "c c a"], ["a b a", "c b"]
    weights_N = np.exp(plain_log_importance(pool, target))
    expected_N = weights_N / weights_N.sum()
    made = limits(BudgetConfig(1, "rows", 1.0), np.ones(4, int), np.zeros(4, int))
    draws = 2000
    first = [dsir(pool, target, made, seed).rows[0] for seed in range(draws)]
    shares_N = np.bincount(first, minlength=4) / draws
    assert 0.05 < expected_N.max() < 0.95
    errors_N = np.sqrt(expected_N * (1 - expected_N) / draws)
    assert (np.abs(shares_N - expected_N) <= 4 * errors_N + 1e-9).all()


def test_dsir_of_empty_pool_texts_is_a_random_draw():
    """No word, no weight; a lone surrogate, which JSON can hold, is a sign like any other."""
    pool = ["", " ", "\n", "\ud800"]
    weights_N = log_importance(pool, ["a"])
    assert weights_N[:3].tolist() == [0, 0, 0]
    assert weights_N[3] < 0
    assert log_importance(["", ""], ["a"]).tolist() == [0, 0]


def test_texts_that_do_not_fit_are_refused():
    """No query, no target, no word in the target, another pool's limits."""
    made = limits(BudgetConfig(1, "rows", 1.0), np.ones(2, int), np.zeros(2, int))
    with pytest.raises(InputError, match="no query text"):
        bm25(["a", "b"], [], made)
    with pytest.raises(InputError, match="no target text; lexical"):
        dsir(["a", "b"], [], made, 0)
    with pytest.raises(InputError, match="no target text holds a word"):
        dsir(["a", "b"], ["", " "], made, 0)
    for select in (lambda pool: bm25(pool, ["a"], made), lambda pool: dsir(pool, ["a"], made, 0)):
        with pytest.raises(ValueError, match="limits of 2 rows, 3 pool texts"):
            select(["a", "b", "c"])
