"""LESS, GIST, RDS+, round-robin and equal shares against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rival_instances import (
    CASES,
    Compressed,
    accept,
    check_limits,
    cosine,
    fits,
    fitting,
    problem,
)

from g2is_jax.runs.errors import InputError
from g2is_jax.selection import influence
from g2is_jax.selection.influence import gist, knn_uniform, less, less_rr, rds_plus
from g2is_jax.selection.selection import BudgetConfig, limits

SELECTORS = {
    "less": lambda pool, validation, made: less(pool, validation, labels(validation), made),
    "less_rr": less_rr,
    "rds_plus": rds_plus,
    "knn_uniform": knn_uniform,
    "gist": lambda pool, validation, made: gist(pool, validation, labels(validation), 3, made),
}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(influence, "BLOCK", 6)


def labels(validation_MP) -> list[str]:
    return [("b", "a", "c")[m % 3] for m in range(len(validation_MP))]


@pytest.mark.parametrize(("seed", "unit", "cap"), CASES)
def test_less_equals_a_plain_loop(seed, unit, cap):
    """Cosine, mean inside a subtask, maximum over subtasks, from the top."""
    features_NP, validation_MP, made = problem(seed, unit, cap)
    names = labels(validation_MP)
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


@pytest.mark.parametrize("rank", [1, 2, 50])
@pytest.mark.parametrize(("seed", "unit", "cap"), CASES)
def test_gist_equals_its_released_steps(seed, unit, cap, rank):
    """Gram matrix, eigenvectors, projection, subtask means, cosine, maximum: row by row."""
    features_NP, validation_MP, made = problem(seed, unit, cap)
    if len(validation_MP) > 3:
        validation_MP[2] = validation_MP[0]
    names = labels(validation_MP)
    rows_MP = validation_MP.astype(np.float64)
    squares_C, vectors_MC = np.linalg.eigh(rows_MP @ rows_MP.T)
    largest = [c for c in np.argsort(-squares_C) if squares_C[c] > 1e-9][:rank]
    projection_PC = (rows_MP.T @ vectors_MC[:, largest]) / np.sqrt(squares_C[largest])
    tasks = []
    for name in sorted(set(names)):
        own = [v @ projection_PC for v, label in zip(rows_MP, names, strict=True) if label == name]
        tasks.append(np.mean(own, axis=0))
    scores = [[cosine(row_P @ projection_PC, task) for task in tasks] for row_P in features_NP]
    best = [round(max(own), 6) for own in scores]
    selection = gist(features_NP, validation_MP, names, rank, made)
    for pick in selection.picks:
        assert pick.score == pytest.approx(best[pick.row], abs=1e-5)
        assert scores[pick.row][pick.component] == pytest.approx(best[pick.row], abs=1e-5)
    assert selection.summary["directions"] == len(largest)
    held = squares_C[largest].sum() / squares_C.sum()
    assert selection.summary["directions_hold"] == pytest.approx(held)
    if len(largest) > 1:  # on a line, cosines are 1 or -1, and rounding decides which rows tie
        ranking = sorted(range(len(best)), key=lambda row: (-best[row], row))
        assert selection.rows == accept(ranking, made)


def test_gist_gives_lengths_their_say_and_nothing_to_rows_outside():
    """A subtask's longer rows turn its mean; a row outside the subspace has cosine 0."""
    validation_MP = np.array([[3, 0, 0, 0], [0, 1, 0, 0]], np.float32)
    features_NP = np.array([[1, 2, 0, 0], [1e-8, 0, 5, 0], [3, 1, 7, 0], [-1, 0, 0, 0]], np.float32)
    made = limits(BudgetConfig(4, "rows", 1.0), np.ones(4, int), np.zeros(4, int))
    selection = gist(features_NP, validation_MP, ["t", "t"], 2, made)
    assert selection.rows == [2, 0, 1, 3]
    expected = [1.0, 5 / 50**0.5, 0.0, -3 / 10**0.5]
    assert [pick.score for pick in selection.picks] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("seed", "unit", "cap"), CASES)
def test_round_robin_equals_a_plain_loop(seed, unit, cap):
    """Each validation row in turn takes its best unused row that fits."""
    features_NP, validation_MP, made = problem(seed, unit, cap)
    chosen: list[int] = []
    while open_rows := fitting(chosen, made):
        validation_P = validation_MP[len(chosen) % len(validation_MP)]
        chosen.append(max(open_rows, key=lambda r: (cosine(features_NP[r], validation_P), -r)))
    selection = less_rr(features_NP, validation_MP, made)
    assert selection.rows == chosen
    check_cosines(selection, features_NP, validation_MP)
    assert [pick.component for pick in selection.picks] == [
        order % len(validation_MP) for order in range(len(chosen))
    ]


@pytest.mark.parametrize(("seed", "unit", "cap"), CASES)
def test_rds_plus_equals_popping_from_sorted_lists(seed, unit, cap):
    """Every turn pops one row; a used one is dropped and the turn is lost."""
    features_NP, validation_MP, made = problem(seed, unit, cap)
    lists = [
        sorted(range(len(features_NP)), key=lambda r: (-cosine(features_NP[r], v_P), r))
        for v_P in validation_MP
    ]
    chosen: list[int] = []
    owners: list[int] = []
    turn = 0
    while fitting(chosen, made):
        own = lists[turn % len(lists)]
        while own and own[0] not in chosen and not fits(own[0], chosen, made):
            own.pop(0)
        row = own.pop(0) if own else None
        if row is not None and row not in chosen:
            chosen.append(row)
            owners.append(turn % len(lists))
        turn += 1
    selection = rds_plus(features_NP, validation_MP, made)
    assert selection.rows == chosen
    assert [pick.component for pick in selection.picks] == owners
    check_cosines(selection, features_NP, validation_MP)


def test_validation_rows_that_agree_lose_turns():
    """Of three equal rows and another, the other takes every second row, not every fourth."""
    rng = np.random.default_rng(0)
    near_NP = np.eye(2)[np.repeat([0, 1], 8)] + 0.1 * rng.normal(size=(16, 2))
    validation_MP = np.eye(2)[[0, 0, 0, 1]]
    made = limits(BudgetConfig(8, "rows", 1.0), np.ones(16, int), np.zeros(16, int))
    assert sum(row >= 8 for row in rds_plus(near_NP, validation_MP, made).rows) == 4
    assert sum(row >= 8 for row in less_rr(near_NP, validation_MP, made).rows) == 2


@pytest.mark.parametrize(("seed", "unit", "cap"), CASES)
def test_equal_shares_equal_a_plain_loop(seed, unit, cap):
    """Validation row after validation row spends until the shares so far are used up."""
    features_NP, validation_MP, made = problem(seed, unit, cap)
    M = len(validation_MP)
    shares = [made.budget // M + (m < made.budget % M) for m in range(M)]
    chosen: list[int] = []
    owners: list[int] = []
    for m, v_P in enumerate(validation_MP):
        while made.costs_N[chosen].sum() < sum(shares[: m + 1]):
            open_rows = fitting(chosen, made)
            if not open_rows:
                break
            chosen.append(max(open_rows, key=lambda r, v_P=v_P: (cosine(features_NP[r], v_P), -r)))
            owners.append(m)
    selection = knn_uniform(features_NP, validation_MP, made)
    assert selection.rows == chosen
    assert [pick.component for pick in selection.picks] == owners
    check_cosines(selection, features_NP, validation_MP)


def check_cosines(selection, features_NP, validation_MP) -> None:
    for pick in selection.picks:
        expected = cosine(features_NP[pick.row], validation_MP[pick.component])
        assert pick.score == pick.cos_component == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", SELECTORS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    unit=st.sampled_from(["rows", "tokens"]),
    cap=st.sampled_from([0.5, 0.7, 1.0]),
)
def test_limits_are_kept_and_used_up(name, seed, unit, cap):
    """Exactly the budget, or all that fits; never more of a source than its cap."""
    features_NP, validation_MP, made = problem(seed, unit, cap)
    selection = SELECTORS[name](features_NP, validation_MP, made)
    check_limits(selection, made)
    assert SELECTORS[name](features_NP, validation_MP, made) == selection


@pytest.mark.parametrize("name", SELECTORS)
def test_compressed_rows_and_blocks_change_nothing(name, monkeypatch):
    """Rows that are only ever sliced, and blocks of any size, give the same picks."""
    features_NP, validation_MP, made = problem(1)
    expected = SELECTORS[name](features_NP, validation_MP, made).rows
    compressed = Compressed(features_NP), Compressed(validation_MP)
    assert SELECTORS[name](*compressed, made).rows == expected
    monkeypatch.setattr(influence, "BLOCK", 1000)
    assert SELECTORS[name](features_NP, validation_MP, made).rows == expected


def test_budget_0_and_everything():
    """Nothing, and every row once."""
    features_NP, validation_MP, _ = problem(3)
    ones_N = np.ones(len(features_NP), int)
    for budget in (0, len(features_NP)):
        made = limits(BudgetConfig(budget, "rows", 1.0), ones_N, ones_N)
        for select in SELECTORS.values():
            rows = select(features_NP, validation_MP, made).rows
            assert len(set(rows)) == len(rows) == budget


@pytest.mark.parametrize("name", SELECTORS)
def test_features_that_do_not_fit_are_refused(name):
    """Different widths, no validation row, rows that are not finite, another pool's limits."""
    features_NP, validation_MP, made = problem(0)
    select = SELECTORS[name]
    with pytest.raises(InputError, match="7 wide, validation features 6"):
        select(features_NP, validation_MP[:, :6], made)
    with pytest.raises(InputError, match="no validation row"):
        select(features_NP, validation_MP[:0], made)
    with pytest.raises(ValueError, match="features of"):
        select(features_NP[1:], validation_MP, made)
    broken_NP = features_NP.copy()
    broken_NP[7, 3] = np.nan
    with pytest.raises(InputError, match="pool row 7 has a feature that is not finite"):
        select(broken_NP, validation_MP, made)
    with pytest.raises(InputError, match="validation row 0 has a feature"):
        select(features_NP, np.full((2, 7), np.inf), made)


def test_what_gist_and_less_refuse():
    """No direction, nothing spanned, labels for other rows."""
    features_NP, validation_MP, made = problem(0)
    with pytest.raises(InputError, match="a rank of 0 leaves no direction"):
        gist(features_NP, validation_MP, labels(validation_MP), 0, made)
    with pytest.raises(InputError, match="every validation row is zero"):
        gist(features_NP, np.zeros((2, 7)), ["a", "b"], 2, made)
    for select in (
        lambda names: gist(features_NP, validation_MP, names, 2, made),
        lambda names: less(features_NP, validation_MP, names, made),
    ):
        with pytest.raises(ValueError, match="subtask labels for"):
            select(["a"] * (len(validation_MP) + 1))
