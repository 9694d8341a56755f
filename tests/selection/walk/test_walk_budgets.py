"""Budgets and caps hold whatever the pool and the rules: drawn by hypothesis."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from g2is_jax.selection.budget import Limits
from g2is_jax.selection.core import Core
from g2is_jax.selection.walk.rules import WalkConfig
from g2is_jax.selection.walk.select import gradient_walk
from tests.support.walk_instances import PAPER

N, P, C = 24, 5, 3  # one shape, one compilation
RELAX = {"on_exhausted": "relax"}
MANY = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def problems(draw, tokens: bool, capped: bool):
    """Features, directions, limits and rules that relax; some rows barred, copied or zero."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    features_NP = rng.normal(size=(N, P)) + draw(st.sampled_from([0.0, 1.0, 5.0]))
    features_NP[rng.integers(N, size=draw(st.integers(0, 6)))] = features_NP[0]
    features_NP[rng.integers(N, size=draw(st.integers(0, 2)))] = 0
    costs_N = rng.integers(1, draw(st.integers(2, 40)), size=N) if tokens else np.ones(N, int)
    budget = draw(st.integers(0, int(costs_N.sum())))
    costs_N = np.where(rng.random(N) < draw(st.sampled_from([0.0, 0.3])), budget + 1, costs_N)
    cap = draw(st.integers(0, budget)) if capped else budget
    core_CP = np.linalg.qr(rng.normal(size=(P, P)))[0][:C]
    weights_C = rng.dirichlet(np.ones(C))
    core = Core(core_CP.astype(np.float32), weights_C, weights_C, C)
    rules = {name: getattr(PAPER, name) for name in PAPER.__dataclass_fields__} | RELAX
    rules |= {
        "delta": draw(st.sampled_from([0.0, 0.8, 1.0])),
        "pull": draw(st.sampled_from([0.0, 0.5, 1.0])),
        "max_similarity": draw(st.sampled_from([1.0, 0.2])),
    }
    limits = Limits(costs_N, budget, rng.integers(2, size=N), cap)
    return features_NP.astype(np.float32), core, limits, WalkConfig(**rules)


def chosen(problem, slots: int) -> tuple[list[int], Limits]:
    features_NP, core, limits, rules = problem
    rows = gradient_walk(features_NP, core, limits, rules, slots=slots).rows
    assert len(set(rows)) == len(rows)
    return rows, limits


@MANY
@given(problems(tokens=False, capped=False), st.sampled_from([1, 2]))
def test_relax_chooses_exactly_the_budget_or_the_whole_eligible_pool(problem, slots):
    """Also of walks side by side."""
    rows, limits = chosen(problem, slots)
    eligible = int((limits.costs_N == 1).sum()) if limits.budget else 0
    assert len(rows) == min(limits.budget, eligible)


@MANY
@given(problems(tokens=True, capped=False))
def test_token_budgets_are_met_within_one_row(problem):
    """The smallest row that is left does not fit any more."""
    rows, limits = chosen(problem, 1)
    spent = limits.costs_N[rows].sum()
    assert spent <= limits.budget
    left_N = np.delete(limits.costs_N, rows)
    assert (spent + left_N > limits.budget).all()


@MANY
@given(st.booleans().flatmap(lambda tokens: problems(tokens, capped=True)))
def test_caps_are_never_exceeded_and_nothing_that_fits_is_left(problem):
    rows, limits = chosen(problem, 2)
    spent_S = np.bincount(limits.sources_N[rows], weights=limits.costs_N[rows], minlength=2)
    assert (spent_S <= limits.cap).all()
    left_N = np.setdiff1d(np.arange(N), rows)
    costs_N, sources_N = limits.costs_N[left_N], limits.sources_N[left_N]
    rest = limits.budget - spent_S.sum()
    assert not ((costs_N <= rest) & (spent_S[sources_N] + costs_N <= limits.cap)).any()
