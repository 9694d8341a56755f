"""The walk in turns against a plain NumPy transcription, row for row, and what it keeps always."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from walk_instances import PAPER, PAPER_KNOWLEDGE, instance

from g2is_jax.runs.errors import InputError
from g2is_jax.selection.knowledge import Core, core_knowledge
from g2is_jax.selection.selection import BudgetConfig, Limits, limits
from g2is_jax.selection.walk import gradient_walk

TURNS = replace(PAPER, order="turns", on_exhausted="relax", pull=0.75)
EQUAL, EQUALLY_SERVED = 1e-6, 1e-5
TOO_CLOSE = 3e-7
SHAPE = (31, 7)  # one, so that little is compiled
DROPPED = ("", "conflict", "consistency", "similarity")  # the last rule that a row needs dropped


class Plain:
    """Float64, everything anew at each turn; `margin` is the closest decision."""

    def __init__(self, features, core, limits, rules, near):
        features = np.asarray(features, np.float64)
        lengths = np.linalg.norm(features, axis=1)
        self.g = features / np.where(lengths == 0, 1e-10, lengths)[:, None]
        self.k = np.asarray(core.core_CP, np.float64)
        self.cosines, self.to_core = self.g @ self.g.T, self.g @ self.k.T
        self.weights = core.weights_C * len(core.weights_C)
        self.limits, self.rules, self.near = limits, rules, near
        self.margin = np.inf

    def run(self):
        chosen, picks = [], []
        own = [[] for _ in self.k]
        ended = [w <= 0 for w in self.weights]
        rest = self.limits.budget
        while True:
            fitting = [j for j in range(len(self.g)) if j not in chosen and self.fits(j, chosen)]
            fitting = [j for j in fitting if self.limits.costs_N[j] <= rest]
            if not fitting or all(ended):
                return picks
            d = self.next_direction(chosen, own, ended)
            heard = [s for e in range(len(own)) if self.k[d] @ self.k[e] >= -EQUAL for s in own[e]]
            stages = {j: self.stage(j, heard, chosen, own[d], d) for j in fitting}
            stage = min(stages.values())
            if stage > 1 and self.rules.on_exhausted == "stop":
                ended[d] = True
                continue
            scores = {j: self.score(j, own[d], d, stage) for j in fitting}
            row = self.largest({j: scores[j] for j in fitting if stages[j] == stage})
            if stage > 1:
                reason = f"relaxed {DROPPED[stage // 2]}"
            else:
                reason = "anchor" if not own[d] else ("neighbour", "fallback")[stage]
            picks.append((row, d, reason))
            chosen.append(row)
            own[d].append(row)
            rest -= self.limits.costs_N[row]

    def fits(self, j, chosen):
        source, costs = self.limits.sources_N, self.limits.costs_N
        spent = sum(costs[s] for s in chosen if source[s] == source[j])
        return spent + costs[j] <= self.limits.cap

    def next_direction(self, chosen, own, ended):
        served = [
            sum(max(0.0, self.to_core[s, d]) for s in chosen) / w if not e else np.inf
            for d, (w, e) in enumerate(zip(self.weights, ended, strict=True))
        ]
        least = min(served)
        gaps = [abs(s - least - EQUALLY_SERVED) for s in served if np.isfinite(s)]
        self.margin = min(self.margin, *gaps)
        equal = [d for d, s in enumerate(served) if s <= least + EQUALLY_SERVED]
        return min(equal, key=lambda d: (len(own[d]), d))

    def stage(self, j, heard, chosen, own, d):
        """`heard`: the rows of S whose directions are not against this one."""
        conflicts = [self.cosines[j, s] for s in heard] or [0.0]
        cosines = [self.cosines[j, s] for s in chosen] or [0.0]
        dropped = 0
        if not self.at_least(min(conflicts), -self.rules.conflict_tolerance):
            dropped = 1
        if own:
            now, after = self.along(own, d), self.along([*own, j], d)
            if not self.at_least(after, self.rules.delta * now):
                dropped = 2
        if self.rules.max_similarity < 1 and not self.at_least(
            self.rules.max_similarity, max(cosines)
        ):
            dropped = 3
        far = self.near is not None and bool(own) and j not in self.near[own[-1]]
        return 2 * dropped + far

    def score(self, j, own, d, stage):
        core = self.to_core[j, d]
        if not own or stage % 2:
            return core
        pull = self.rules.pull
        return (1 - pull) * self.cosines[j, own[-1]] + pull * core

    def along(self, rows, d):
        total = self.g[rows].sum(axis=0)
        length = np.linalg.norm(total)
        self.margin = min(self.margin, abs(length**2 - 1e-6))
        return 0.0 if length <= 1e-3 else abs(total @ self.k[d]) / length

    def at_least(self, left, right):
        self.margin = min(self.margin, abs(left - right + EQUAL))
        return left >= right - EQUAL

    def largest(self, scores):
        best = max(scores.values())
        self.margin = min(self.margin, *(abs(best - s - EQUAL) for s in scores.values()))
        return min(j for j, s in scores.items() if best - s < EQUAL)


def rows_core(seed: int, width: int) -> Core:
    """What the kept components explain of some validation rows, two of them equal."""
    rng = np.random.default_rng(seed)
    validation_MP = rng.normal(size=(6, width)) + rng.normal(size=width)
    validation_MP[4] = validation_MP[1]
    keep = rng.choice([0.4, 0.8])
    config = replace(PAPER_KNOWLEDGE, center=False, keep_value=keep, anchors="rows")
    return core_knowledge(validation_MP, config)


CASES = (
    {},
    {"delta": 0.95, "pull": 0.3},
    {"conflict_tolerance": 0.2, "max_similarity": 0.7},
    {"on_exhausted": "stop", "pull": 1.0},
    {"on_exhausted": "stop", "delta": 0.99, "pull": 0.0, "max_similarity": 0.5},
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_equals_the_transcription(dtype):
    """Components and validation rows as directions, rows and tokens, caps, stored neighbours."""
    seen: Counter = Counter()
    for seed in range(60):
        unit, cap = (("rows", 1.0), ("tokens", 0.6))[seed // 2 % 2]
        edges, components = 4 * (seed // 4 % 2), seed % 4 == 3 and dtype == "float32"
        given_ = instance(seed, unit, cap, dtype, shape=SHAPE, edges=edges, components=6)
        features = given_.rows
        core = given_.core if components else rows_core(seed, features.shape[1])
        rules = replace(TURNS, **CASES[seed % len(CASES)])
        selection = gradient_walk(features, core, given_.limits, rules, given_.near)
        near = None if given_.near is None else given_.near.tolist()
        plain = Plain(features[:], core, given_.limits, rules, near)
        expected = plain.run()
        if plain.margin < TOO_CLOSE:
            seen["too close to call"] += 1
            continue
        found = [(p.row, p.component, p.reason) for p in selection.picks]
        assert found == expected, (seed, rules)
        seen.update({reason for _, _, reason in expected})
        seen["compared"] += 1
        seen["stopped early"] += selection.summary["spent"] < given_.limits.budget - 40
    assert seen["compared"] >= 45, seen
    reasons = ("anchor", "neighbour", "fallback", "relaxed conflict", "relaxed consistency")
    assert min(seen[what] for what in (*reasons, "relaxed similarity", "stopped early")) >= 2, seen


def plain_limits(rows: int, budget: int) -> Limits:
    config = BudgetConfig(budget=budget, unit="rows", source_cap=1.0)
    return limits(config, np.ones(rows, int), np.zeros(rows, int))


def test_the_least_served_direction_is_next():
    """Two directions 60 degrees apart and one across: a row between the two serves both."""
    core_CP = np.array([[1, 0, 0], [0.5, 0.75**0.5, 0], [0, 0, 1]], np.float32)
    core = Core(core_CP, np.full(3, 1 / 3), np.full(3, 1 / 3), 3)
    rows_NP = np.array([[0.75**0.5, 0.5, 0], [0.1, 0, 1], [0.2, 0, 1], [1, 0, 0.1]], np.float32)
    selection = gradient_walk(rows_NP, core, plain_limits(4, 4), TURNS)
    assert [(p.row, p.component) for p in selection.picks] == [(3, 0), (1, 2), (0, 1), (2, 2)]
    first, second, third, fourth = selection.picks
    assert (first.cos_previous, first.cos_smallest) == (None, None)
    assert (second.cos_previous, second.reason) == (None, "anchor")
    assert second.cos_smallest == pytest.approx(0.2 / 1.01, abs=1e-6)
    assert fourth.cos_previous == pytest.approx(rows_NP[1] @ rows_NP[2] / 1.01**0.5 / 1.04**0.5)
    assert fourth.reason == "neighbour"
    assert [c["rows"] for c in selection.summary["components"]] == [1, 1, 2]
    assert third.cos_smallest == pytest.approx(0.1 * 0.75**0.5 / 1.01**0.5, abs=1e-6)


def test_equal_directions_take_turns():
    """And not the first one all of them."""
    same_CP = np.tile(np.eye(3, dtype=np.float32)[:1], (3, 1))
    core = Core(same_CP, np.full(3, 1 / 3), np.ones(1), 1)
    rows_NP = np.random.default_rng(0).normal(size=(30, 3)) + np.array([3, 0, 0])
    selection = gradient_walk(rows_NP, core, plain_limits(30, 7), TURNS)
    assert [pick.component for pick in selection.picks] == [0, 1, 2, 0, 1, 2, 0]


def test_a_direction_of_no_weight_takes_no_turn_and_weights_are_shares():
    """The first is to be served three times as much as the second."""
    core = Core(np.eye(3, dtype=np.float32), np.array([0.75, 0.25, 0]), np.ones(3), 3)
    rows_NP = np.repeat(np.eye(3, dtype=np.float32), 8, axis=0)
    selection = gradient_walk(rows_NP, core, plain_limits(24, 8), TURNS)
    components = [pick.component for pick in selection.picks]
    assert (components.count(0), components.count(1)) == (6, 2)


def test_rule_5_holds_across_directions_and_for_anchors():
    """The second direction's best row conflicts with the first's; not so walking by components."""
    core = Core(np.array([[1, 0], [0, 1]], np.float32), np.full(2, 0.5), np.ones(2), 2)
    rows_NP = np.array([[1, 0], [-0.1, 1], [0.5, 1]], np.float32)
    in_turns = gradient_walk(rows_NP, core, plain_limits(3, 2), TURNS)
    assert in_turns.rows == [0, 2]
    by_component = gradient_walk(rows_NP, core, plain_limits(3, 2), PAPER)
    assert by_component.rows == [0, 1]
    assert gradient_walk(rows_NP, core, plain_limits(3, 3), TURNS).picks[2].reason == (
        "relaxed conflict"
    )


def test_directions_against_each_other_may_have_rows_in_conflict():
    """Both are served by their own rows, and the trace does not count the other's."""
    core = Core(np.array([[1, 0], [-1, 0]], np.float32), np.full(2, 0.5), np.ones(2), 2)
    rows_NP = np.array([[1, 0.1], [-1, 0.1], [0, 1], [0.9, 0.2], [-0.9, 0.2]], np.float32)
    selection = gradient_walk(rows_NP, core, plain_limits(5, 4), TURNS)
    assert [(p.row, p.component) for p in selection.picks] == [(0, 0), (1, 1), (3, 0), (4, 1)]
    assert {pick.reason for pick in selection.picks} == {"anchor", "neighbour"}
    assert selection.picks[1].cos_smallest is None


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_budget_is_used_up_and_caps_are_kept(data):
    """Relaxing, no row that still fits is left; in rows that is the budget or the whole pool."""
    seed = data.draw(st.integers(0, 10_000))
    unit, cap = data.draw(st.sampled_from([("rows", 1.0), ("rows", 0.4), ("tokens", 0.5)]))
    given_ = instance(seed, unit, cap, shape=SHAPE, edges=4 * (seed % 2))
    core = rows_core(seed, given_.features_NP.shape[1])
    selection = gradient_walk(given_.features_NP, core, given_.limits, TURNS, given_.near)
    rows, own = selection.rows, given_.limits
    assert len(set(rows)) == len(rows)
    spent = own.costs_N[rows].sum()
    by_source = np.bincount(own.sources_N[rows], own.costs_N[rows], minlength=2)
    assert spent == selection.summary["spent"] <= own.budget
    assert by_source.max(initial=0) <= own.cap
    left = np.setdiff1d(np.arange(len(own.costs_N)), rows)
    fits = (spent + own.costs_N <= own.budget) & (by_source[own.sources_N] + own.costs_N <= own.cap)
    assert not fits[left].any()
    assert sum(c["spent"] for c in selection.summary["components"]) == spent


def test_what_has_no_meaning_in_turns_is_refused():
    with pytest.raises(InputError, match=r"walk.on_exhausted: 'reanchor' needs walk.order compo"):
        replace(TURNS, on_exhausted="reanchor")
    with pytest.raises(InputError, match=r"walk.order: 'turn' is none of components, turns"):
        replace(TURNS, order="turn")
