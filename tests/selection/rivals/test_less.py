"""LESS and its round-robin against plain loops."""

import numpy as np
import pytest

from g2is_jax.selection.rivals.less import less, less_rr
from tests.support.rival_instances import (
    CASES,
    accept,
    check_cosines,
    cosine,
    fitting,
    labels,
    problem,
)

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


def test_labels_of_other_rows_are_refused():
    features_NP, validation_MP, made = problem(0)
    with pytest.raises(ValueError, match="subtask labels for"):
        less(features_NP, validation_MP, ["a"] * (len(validation_MP) + 1), made)
