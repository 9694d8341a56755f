"""GIST against its released steps, row by row."""

import numpy as np
import pytest

from g2is_jax.runs.errors import InputError
from g2is_jax.selection.budget import BudgetConfig, limits
from g2is_jax.selection.rivals.gist import gist
from tests.support.rival_instances import (
    CASES,
    accept,
    cosine,
    labels,
    problem,
)

pytestmark = pytest.mark.usefixtures("_small_blocks")


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


def test_what_gist_refuses():
    """No direction, nothing spanned, labels for other rows."""
    features_NP, validation_MP, made = problem(0)
    with pytest.raises(InputError, match="a rank of 0 leaves no direction"):
        gist(features_NP, validation_MP, labels(validation_MP), 0, made)
    with pytest.raises(InputError, match="every validation row is zero"):
        gist(features_NP, np.zeros((2, 7)), ["a", "b"], 2, made)
    with pytest.raises(ValueError, match="subtask labels for"):
        gist(features_NP, validation_MP, ["a"] * (len(validation_MP) + 1), 2, made)
