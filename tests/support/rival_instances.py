"""Random problems for the selectors without a graph, and what a budget allows, plainly."""

import numpy as np
import pytest

from g2is_jax.selection.budget import BudgetConfig, Limits, Selection, limits
from g2is_jax.selection.rivals.coverage import coverage
from g2is_jax.selection.rivals.gip import gip
from g2is_jax.selection.rivals.pursuit import pursuit

GREEDY = {"coverage": coverage, "pursuit": pursuit, "gip": gip}
CASES = [(seed, unit, cap) for seed in range(6) for unit, cap in (("rows", 1.0), ("tokens", 0.4))]


class Compressed:
    """Rows that can be counted and sliced, and no more; a slice is not yet an array."""

    def __init__(self, rows_NP):
        self._rows_NP = rows_NP
        self.shape = rows_NP.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: slice) -> "Slice":
        assert isinstance(chosen, slice)
        return Slice(self._rows_NP[chosen])


class Slice:
    """Becomes an array of any type when NumPy asks."""

    def __init__(self, rows_BP):
        self._rows_BP = rows_BP

    def __array__(self, dtype=None, copy=None):
        return np.array(self._rows_BP, dtype)


def problem(seed: int, unit="rows", cap=1.0) -> tuple[np.ndarray, np.ndarray, Limits]:
    """Pool rows, some equal and one zero, and up to 8 validation rows."""
    rng = np.random.default_rng(seed)
    N, M, P = int(rng.integers(8, 40)), int(rng.integers(1, 9)), 7
    features_NP = rng.normal(size=(N, P)).astype(np.float32)
    features_NP[rng.integers(N, size=3)] = features_NP[rng.integers(N, size=3)]
    features_NP[rng.integers(N)] = 0
    made = random_limits(rng, N, unit, cap)
    return features_NP, rng.normal(size=(M, P)).astype(np.float32), made


def opposing(seed: int, unit: str, cap: float):
    """A problem whose rows share a direction of some strength, and some of which are opposites."""
    features_NP, validation_MP, made = problem(seed, unit, cap)
    rng = np.random.default_rng(seed)
    features_NP += np.float32(rng.choice([0, 1, 3])) * (np.abs(features_NP).max(1) > 0)[:, None]
    features_NP[0] = -features_NP[-1]
    return features_NP, validation_MP, made


def varied(seed: int) -> tuple[np.ndarray, np.ndarray, Limits]:
    """A problem with what is rare: copies of rows at other lengths, zero rows on both sides, one
    validation row or equal ones, rows that nearly are copies, a budget of one row or of all."""
    rng = np.random.default_rng(seed)
    N, P, M = int(rng.integers(8, 40)), int(rng.choice([7, 19])), int(rng.choice([1, 2, 5, 8]))
    common_P = rng.normal(size=P) * rng.choice([0, 1, 3])
    features_NP = (rng.normal(size=(N, P)) + common_P).astype(np.float32)
    features_NP[rng.integers(N, size=4)] = 4 * features_NP[rng.integers(N, size=4)]
    features_NP[rng.integers(N)] = features_NP[0] + 0.1 * rng.normal(size=P)
    features_NP[rng.integers(N, size=rng.integers(3))] = 0
    validation_MP = (rng.normal(size=(M, P)) + common_P).astype(np.float32)
    validation_MP[rng.integers(M)] = validation_MP[0]
    if seed % 5 == 0:
        validation_MP[-1] = 0
    unit, cap = (("rows", 1.0), ("rows", 0.5), ("tokens", 1.0), ("tokens", 0.4))[seed % 4]
    made = random_limits(rng, N, unit, cap)
    if seed % 7 == 0:
        budget = int(rng.choice([1, N]))
        made = limits(BudgetConfig(budget, "rows", 1.0), made.costs_N, made.sources_N)
    return features_NP, validation_MP, made


def labels(validation_MP) -> list[str]:
    """Subtasks of the validation rows, of three in turn."""
    return [("b", "a", "c")[m % 3] for m in range(len(validation_MP))]


def random_limits(rng, rows: int, unit: str, cap: float) -> Limits:
    """Limits over two sources, from two fifths of the pool to all of it."""
    tokens_N, sources_N = rng.integers(4, 30, size=rows), rng.integers(2, size=rows)
    whole = int(tokens_N.sum()) if unit == "tokens" else rows
    budget = int(whole * rng.choice([0.4, 0.7, 1.0]))
    return limits(BudgetConfig(budget, unit, cap), tokens_N, sources_N)


def cosine(a, b) -> float:
    """Returns the cosine to 7 digits, so that equal rows tie; 0 with a zero row."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lengths = max(np.linalg.norm(a), 1e-10) * max(np.linalg.norm(b), 1e-10)
    return round(float(a @ b / lengths), 7)


def cosines(features_NP, validation_MP) -> list[list[float]]:
    """The cosines of each validation row to all pool rows."""
    return [[cosine(row_P, v_P) for row_P in features_NP] for v_P in validation_MP]


def accept(ranking, made: Limits) -> list[int]:
    """Greedy acceptance, once more and plainly."""
    chosen: list[int] = []
    for row in ranking:
        if fits(row, chosen, made):
            chosen.append(row)
    return chosen


def fits(row, chosen, made: Limits) -> bool:
    """Says whether a row is unused and within budget and cap."""
    same = [other for other in chosen if made.sources_N[other] == made.sources_N[row]]
    cost = made.costs_N[row]
    within = made.costs_N[chosen].sum() + cost <= made.budget
    return row not in chosen and within and made.costs_N[same].sum() + cost <= made.cap


def fitting(chosen, made: Limits) -> list[int]:
    """The rows that are unused and fit, ascending."""
    return [row for row in range(len(made.costs_N)) if fits(row, chosen, made)]


def check_limits(selection: Selection, made: Limits) -> None:
    """No row twice, budget and caps kept, and not one more row would fit."""
    rows = selection.rows
    assert len(set(rows)) == len(rows)
    assert [pick.order for pick in selection.picks] == list(range(len(rows)))
    spent = int(made.costs_N[rows].sum())
    assert selection.summary["budget"] == made.budget
    assert selection.summary["spent"] == spent <= made.budget
    by_source = np.bincount(made.sources_N[rows], made.costs_N[rows], minlength=2)
    assert by_source.max(initial=0) <= made.cap
    assert not fitting(rows, made)
    if (made.costs_N == 1).all() and made.cap == made.budget:
        assert len(rows) == made.budget


def check_cosines(selection, features_NP, validation_MP) -> None:
    """Each pick scores its cosine to the validation row that took it."""
    for pick in selection.picks:
        expected = cosine(features_NP[pick.row], validation_MP[pick.component])
        assert pick.score == pick.cos_component == pytest.approx(expected, abs=1e-6)
