"""Random problems for the walk, and the paper's rules."""

from dataclasses import dataclass, replace

import numpy as np

from g2is_jax.features.rows import Rows, quantised
from g2is_jax.selection.budget import BudgetConfig, Limits, limits
from g2is_jax.selection.core import Core, KnowledgeConfig, core_knowledge
from g2is_jax.selection.neighbours import neighbours
from g2is_jax.selection.walk.rules import WalkConfig

PAPER = WalkConfig(
    delta=0.8,
    delta_reference="current",
    pull=0.0,
    conflict_tolerance=0.0,
    max_similarity=1.0,
    on_exhausted="stop",
    order="components",
    fairness=0.0,
    conflict_worth=0.0,
    drift=0.0,
)
PAPER_KNOWLEDGE = KnowledgeConfig(
    center=True, sign="svd", keep="variance", keep_value=0.5, unit_rows=False, anchors="components"
)
SHAPES = ((31, 7), (43, 11), (29, 5))  # few shapes, few compilations


@dataclass(frozen=True)
class Instance:
    """One random problem; `near` is None for an exact graph, features_NP what `rows` stand for,
    `limits` what `asked` means."""

    features_NP: np.ndarray
    core: Core
    asked: BudgetConfig
    limits: Limits
    near: np.ndarray | None
    validation_rows: int
    rows: Rows


def instance(seed: int, budget_unit="rows", source_cap=1.0, dtype="float32", **fixed) -> Instance:
    """Rows around a common direction of varying strength, some equal, opposite, sparse or zero.

    A budget in `fraction` is no whole number of rows. fixed: `shape`, `edges` (0 is the exact
    graph) and `components`, else they vary with the seed.
    """
    rng = np.random.default_rng(seed)
    N, P = fixed.get("shape", SHAPES[seed % len(SHAPES)])
    common_P = rng.normal(size=P) * rng.choice([0.0, 0.5, 1.5, 6.0])
    features_NP = rng.normal(size=(N, P)) + common_P
    features_NP[rng.random(size=N) < 0.1] = np.eye(P)[rng.integers(P)]
    features_NP = (features_NP * rng.uniform(0.1, 9, size=(N, 1))).astype(np.float32)
    if seed % 2:
        features_NP[rng.integers(N, size=4)] = features_NP[rng.integers(N, size=4)]
        features_NP[rng.integers(N)] = 0
    if seed % 5 == 0:
        features_NP[rng.integers(N)] = -features_NP[rng.integers(N)]

    M = int(rng.choice([1, 2, 5, 13]))
    validation_MP = (rng.normal(size=(M, P)) + common_P).astype(np.float32)
    knowledge = replace(PAPER_KNOWLEDGE, center=M > 1)
    if "components" in fixed:
        validation_MP = (rng.normal(size=(13, P)) + common_P).astype(np.float32)
        knowledge = replace(PAPER_KNOWLEDGE, keep="count", keep_value=fixed["components"])
    core = core_knowledge(validation_MP, knowledge)

    tokens_N, sources_N = rng.integers(5, 40, size=N), rng.integers(2, size=N)
    if budget_unit == "fraction":
        budget = rng.integers(40, 700) / 1000  # the rows of SHAPES are primes
    else:
        whole = int(tokens_N.sum()) if budget_unit == "tokens" else N
        budget = int(whole * rng.choice([0, 0.12, 0.3, 0.6, 1.0], p=[0.05, 0.3, 0.3, 0.2, 0.15]))
    asked = BudgetConfig(budget=budget, unit=budget_unit, source_cap=source_cap)
    rows = Rows(*quantised(features_NP, dtype))
    edges = fixed.get("edges", 4 * (seed // len(SHAPES) % 2))
    near = neighbours(rows, edges)[0] if edges else None
    return Instance(rows[:], core, asked, limits(asked, tokens_N, sources_N), near, M, rows)
