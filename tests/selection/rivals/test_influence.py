"""LESS, GIST, RDS+, round-robin and equal shares against plain loops."""

import numpy as np
import pytest

from g2is_jax.runs.errors import InputError
from g2is_jax.selection.budget import BudgetConfig, limits
from g2is_jax.selection.rivals.gist import gist
from g2is_jax.selection.rivals.knn import knn_uniform
from g2is_jax.selection.rivals.less import less, less_rr
from g2is_jax.selection.rivals.rds import rds_plus
from tests.support.rival_instances import CASES, accept, cosine, fits, fitting, labels, problem

pytestmark = pytest.mark.usefixtures("_small_blocks")


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
