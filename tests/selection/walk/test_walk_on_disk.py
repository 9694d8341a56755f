"""Walks over rows that are left on disk choose what they choose over rows in memory."""

from dataclasses import replace

import numpy as np
import pytest

from g2is_jax.features import rows_on_disk
from g2is_jax.features.rows import DTYPES, Rows, unit_length
from g2is_jax.runs.errors import InputError
from g2is_jax.selection.core import Core
from g2is_jax.selection.neighbours import neighbours
from g2is_jax.selection.walk import select
from g2is_jax.selection.walk.select import gradient_walk
from tests.support.walk_instances import PAPER, instance

DEFAULT = replace(
    PAPER, order="together", on_exhausted="relax", pull=1.0, fairness=4.0, conflict_worth=0.8
)
TOO_CLOSE = 3e-7  # decisions that rounding may turn


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(rows_on_disk, "BLOCK_BYTES", 4 * 7 * 10)  # ten rows of seven values


def left_on_disk(rows: Rows, folder) -> Rows:
    """The same rows as a memory map."""
    values_NP = np.asarray(rows.values_NP)
    file = folder / f"{values_NP.dtype.name}-{len(list(folder.iterdir()))}"
    np.memmap(file, values_NP.dtype, "w+", shape=values_NP.shape)[:] = values_NP
    mapped_NP = np.memmap(file, values_NP.dtype, "r", shape=values_NP.shape)
    return Rows(mapped_NP, rows.scales_N, rows.norms_NK, rows.finite_N)


def core_of(seed: int, width: int) -> Core:
    core_CP = np.random.default_rng(seed).normal(size=(5, width)).astype(np.float32)
    core_CP /= np.linalg.norm(core_CP, axis=1, keepdims=True)
    return Core(core_CP, np.full(5, 0.2), np.full(5, 0.2), 5)


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize(
    "rules",
    [PAPER, DEFAULT, replace(DEFAULT, fairness=1.0, pull=0.5)],
    ids=["paper", "g2is", "pull"],
)
def test_the_same_rows_for_the_same_reasons(rules, dtype, tmp_path, monkeypatch):
    """In order, side by side, and on a front; tokens and caps too."""
    monkeypatch.setattr(select, "FRONT", 12)
    compared = 0
    for seed in range(0, 10, 2):  # odd ones have equal rows
        unit, cap = (("rows", 1.0), ("tokens", 0.6))[seed // 2 % 2]
        problem = instance(seed, unit, cap, dtype, shape=(61, 7), edges=0)
        core, mapped = core_of(seed, 7), left_on_disk(problem.rows, tmp_path)
        assert mapped.on_disk
        expected = gradient_walk(problem.rows, core, problem.limits, rules)
        found = gradient_walk(mapped, core, problem.limits, rules)
        if (expected.summary["closest_decision"] or 1) < TOO_CLOSE:
            continue
        assert [p.row for p in found.picks] == [p.row for p in expected.picks]
        assert [p.reason for p in found.picks] == [p.reason for p in expected.picks]
        for pick, other in zip(found.picks, expected.picks, strict=True):
            assert pick.score == pytest.approx(other.score, abs=1e-5)
        compared += 1
    assert compared >= 2


def test_a_large_pool_has_a_larger_front(tmp_path, monkeypatch):
    """Fewer reads, the same rows."""
    problem = instance(3, "rows", 1.0, "float32", shape=(61, 7), edges=0)
    mapped, core = left_on_disk(problem.rows, tmp_path), core_of(3, 7)
    passes = []
    for waiting in (2, 12):
        monkeypatch.setattr(select, "FRONT", 12)
        monkeypatch.setattr(select, "FRONT_ON_DISK", 20)
        monkeypatch.setattr(select, "WAITING_ON_DISK", waiting)
        found = gradient_walk(mapped, core, problem.limits, replace(DEFAULT, conflict_worth=1.0))
        passes.append((found.summary["passes"], found.rows))
    assert passes[1][0] < passes[0][0]
    assert passes[1][1] == passes[0][1]


def test_stored_neighbours_of_rows_on_disk(tmp_path):
    """The same cosines, so that none but equal neighbours may change places."""
    problem = instance(5, "rows", 1.0, "bfloat16", shape=(61, 7), edges=0)
    expected = neighbours(problem.rows, 4)[1]
    indices_NE, found = neighbours(left_on_disk(problem.rows, tmp_path), 4)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    units_NP = unit_length(problem.rows[:].astype(np.float64))
    own = np.einsum("nep,np->ne", units_NP[indices_NE], units_NP)
    np.testing.assert_allclose(own, expected, atol=1e-6)


def test_a_row_that_is_not_finite_is_named(tmp_path):
    rows = np.ones((30, 7), np.float32)
    rows[17, 3] = np.nan
    mapped, core = left_on_disk(Rows(rows), tmp_path), core_of(0, 7)
    problem = instance(0, "rows", 1.0, "float32", shape=(30, 7), edges=0)
    with pytest.raises(InputError, match="pool row 17 has a feature that is not finite"):
        gradient_walk(mapped, core, problem.limits, DEFAULT)
