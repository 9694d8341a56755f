"""Optimal transport against plain loops in logarithms, and against a general solver."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from g2is_jax.selection.rivals.uot import EPSILON, SOFT, transport, uot
from tests.support.rival_instances import accept, cosine, varied

pytestmark = pytest.mark.usefixtures("_small_blocks")


def rounded_once(features_NP, validation_MP) -> list[list[float]]:
    """The cosines in float32: masses of a zero validation row differ by less than their digits."""
    rows_NP, rows_MP = (rows.astype(np.float64) for rows in (features_NP, validation_MP))
    lengths_N = [np.linalg.norm(row_P) or 1.0 for row_P in rows_NP]
    return [
        [
            float(np.float32(row_P @ v_P / length / (np.linalg.norm(v_P) or 1.0)))
            for row_P, length in zip(rows_NP, lengths_N, strict=True)
        ]
        for v_P in rows_MP
    ]


def log_sum(terms) -> float:
    largest = max(terms)
    return largest + math.log(sum(math.exp(term - largest) for term in terms))


def plain(found) -> list[list[float]]:
    """The plan, by log-domain scaling until it stands still."""
    M, N = len(found), len(found[0])
    kernel = [[-(1 - x) / 2 / EPSILON for x in own] for own in found]
    g = [0.0] * N
    for _ in range(100):
        f = [-math.log(M) - log_sum([k + w for k, w in zip(own, g, strict=True)]) for own in kernel]
        before = g
        sums = [log_sum([kernel[v][j] + f[v] for v in range(M)]) for j in range(N)]
        g = [SOFT / (SOFT + EPSILON) * (-math.log(N) - own) for own in sums]
        if max(abs(a - b) for a, b in zip(before, g, strict=True)) < 1e-14:
            break
    else:
        raise AssertionError("no end")
    return [[math.exp(f[v] + kernel[v][j] + g[j]) for j in range(N)] for v in range(M)]


@pytest.mark.parametrize("seed", range(200))
def test_uot_equals_scaling_in_logarithms(seed):
    """Masses, senders and the ranking; and the plan's conditions, from its definition."""
    features_NP, validation_MP, made = varied(seed)
    cosines_MN = rounded_once(features_NP, validation_MP)
    nearest_N, plan_MN = np.max(cosines_MN, axis=0), np.array(plain(cosines_MN))
    masses = plan_MN.sum(axis=0)
    selection = uot(features_NP, validation_MP, made)
    by_size = sorted(
        range(len(masses)), key=lambda row: (-np.float32(masses[row]), -nearest_N[row], row)
    )
    assert selection.rows == accept(by_size, made)
    for pick in selection.picks:
        assert pick.score == pytest.approx(masses[pick.row], rel=1e-6)
        own = plan_MN[:, pick.row]
        assert own[pick.component] == pytest.approx(own.max(), rel=1e-6)
        expected = cosine(features_NP[pick.row], validation_MP[pick.component])
        assert pick.cos_component == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_uot_equals_a_general_solver(seed):
    """Each validation row's shares are a softmax, so that no constraint is left."""
    rng = np.random.default_rng(seed)
    M, N = 3, 6
    cosines_MN = (0.8 + 0.03 * rng.normal(size=(M, N))).astype(np.float32)
    costs_MN = (1 - cosines_MN.astype(np.float64)) / 2

    def objective(logits) -> float:
        shares_MN = np.exp(logits.reshape(M, N))
        plan_MN = shares_MN / shares_MN.sum(axis=1, keepdims=True) / M
        sums_N = plan_MN.sum(axis=0)
        entropy = (plan_MN * np.log(plan_MN)).sum()
        apart = (sums_N * np.log(sums_N * N) - sums_N + 1 / N).sum()
        return 1e3 * ((plan_MN * costs_MN).sum() + EPSILON * entropy + SOFT * apart)

    solved = minimize(objective, np.zeros(M * N), method="BFGS", options={"gtol": 1e-7})
    shares_MN = np.exp(solved.x.reshape(M, N))
    plan_MN = shares_MN / shares_MN.sum(axis=1, keepdims=True) / M
    masses_N, senders_N = transport(cosines_MN)
    np.testing.assert_allclose(masses_N, plan_MN.sum(axis=0), rtol=1e-4)
    assert masses_N.sum() == pytest.approx(1)
    assert senders_N.tolist() == plan_MN.argmax(axis=0).tolist()


def test_opposite_rows_are_no_trouble():
    """The kernel of opposite rows is e^-100: their mass is tiny, and is there."""
    masses_N, _ = transport(np.array([[1, -1, -1, 1]], np.float32))
    assert masses_N[:2].tolist() == masses_N[3:1:-1].tolist()
    assert 0 < masses_N[1] < 1e-40
