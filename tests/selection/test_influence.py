"""LESS and its round-robin against plain loops."""

import numpy as np
import pytest

from g2is_jax.runs.errors import InputError
from g2is_jax.selection import influence
from g2is_jax.selection.influence import less, less_rr
from g2is_jax.selection.selection import BudgetConfig, Limits, limits


def problem(seed: int, unit="rows", cap=1.0) -> tuple[np.ndarray, np.ndarray, Limits]:
    rng = np.random.default_rng(seed)
    N, M, P = int(rng.integers(8, 40)), int(rng.integers(1, 9)), 7
    features_NP = rng.normal(size=(N, P)).astype(np.float32)
    features_NP[rng.integers(N, size=3)] = features_NP[rng.integers(N, size=3)]
    features_NP[rng.integers(N)] = 0
    tokens_N, sources_N = rng.integers(4, 30, size=N), rng.integers(2, size=N)
    whole = int(tokens_N.sum()) if unit == "tokens" else N
    budget = int(whole * rng.choice([0.4, 0.7, 1.0]))
    made = limits(BudgetConfig(budget, unit, cap), tokens_N, sources_N)
    return features_NP, rng.normal(size=(M, P)).astype(np.float32), made


def cosine(a, b) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return round(float(a @ b / (max(np.linalg.norm(a), 1e-10) * np.linalg.norm(b))), 7)


def accept(ranking, made: Limits) -> list[int]:
    """Greedy acceptance, once more and plainly."""
    chosen: list[int] = []
    for row in ranking:
        if fits(row, chosen, made):
            chosen.append(row)
    return chosen


def fits(row, chosen, made: Limits) -> bool:
    same = [other for other in chosen if made.sources_N[other] == made.sources_N[row]]
    cost = made.costs_N[row]
    within = made.costs_N[chosen].sum() + cost <= made.budget
    return row not in chosen and within and made.costs_N[same].sum() + cost <= made.cap


CASES = [(seed, unit, cap) for seed in range(6) for unit, cap in (("rows", 1.0), ("tokens", 0.4))]


@pytest.mark.parametrize(("seed", "unit", "cap"), CASES)
def test_less_equals_a_plain_loop(seed, unit, cap, monkeypatch):
    """Cosine, mean inside a subtask, maximum over subtasks, from the top."""
    monkeypatch.setattr(influence, "BLOCK", 6)
    features_NP, validation_MP, made = problem(seed, unit, cap)
    names = [("b", "a", "c")[m % 3] for m in range(len(validation_MP))]
    scores = []
    for row_P in features_NP:
        means = []
        for name in sorted(set(names)):
            members = [v for v, own in zip(validation_MP, names, strict=True) if own == name]
            means.append(np.mean([cosine(row_P, v) for v in members]))
        scores.append((round(max(means), 6), int(np.argmax(means))))
    ranking = sorted(range(len(scores)), key=lambda row: (-scores[row][0], row))
    selection = less(features_NP, validation_MP, names, made)
    assert selection.rows == accept(ranking, made)
    for pick in selection.picks:
        assert pick.score == pytest.approx(scores[pick.row][0], abs=1e-5)
        assert pick.component == scores[pick.row][1]
        assert pick.cos_previous is None
    assert selection.summary["spent"] <= made.budget


@pytest.mark.parametrize(("seed", "unit", "cap"), CASES)
def test_round_robin_equals_a_plain_loop(seed, unit, cap, monkeypatch):
    """Each validation row in turn takes its best unused row that fits."""
    monkeypatch.setattr(influence, "BLOCK", 6)
    features_NP, validation_MP, made = problem(seed, unit, cap)
    chosen: list[int] = []
    while open_rows := [r for r in range(len(features_NP)) if fits(r, chosen, made)]:
        validation_P = validation_MP[len(chosen) % len(validation_MP)]
        chosen.append(max(open_rows, key=lambda r: (cosine(features_NP[r], validation_P), -r)))
    selection = less_rr(features_NP, validation_MP, made)
    assert selection.rows == chosen
    for order, pick in enumerate(selection.picks):
        assert pick.order == order
        assert pick.component == order % len(validation_MP)
        expected = cosine(features_NP[pick.row], validation_MP[pick.component])
        assert pick.score == pick.cos_component == pytest.approx(expected, abs=1e-6)


def test_budget_0_and_everything():
    """Nothing, and every row once."""
    features_NP, validation_MP, _ = problem(3)
    ones_N = np.ones(len(features_NP), int)
    for budget in (0, len(features_NP)):
        made = limits(BudgetConfig(budget, "rows", 1.0), ones_N, ones_N)
        for selection in (
            less(features_NP, validation_MP, np.zeros(len(validation_MP)), made),
            less_rr(features_NP, validation_MP, made),
        ):
            assert len(set(selection.rows)) == len(selection.rows) == budget


def test_features_that_do_not_fit_are_refused():
    """Different widths, or no validation row."""
    features_NP, validation_MP, made = problem(0)
    with pytest.raises(InputError, match="7 wide, validation features 6"):
        less_rr(features_NP, validation_MP[:, :6], made)
    with pytest.raises(InputError, match="no validation row"):
        less(features_NP, validation_MP[:0], [], made)
