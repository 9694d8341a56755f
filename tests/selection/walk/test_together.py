"""One walk for all directions against a plain NumPy transcription, and what it keeps always."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g2is_jax.runs.errors import InputError
from g2is_jax.selection.budget import BudgetConfig, Limits, limits
from g2is_jax.selection.core import Core, core_knowledge
from g2is_jax.selection.walk import select
from g2is_jax.selection.walk.select import gradient_walk
from tests.support.walk_instances import PAPER, PAPER_KNOWLEDGE, instance

TOGETHER = replace(
    PAPER, order="together", on_exhausted="relax", pull=1.0, fairness=4.0, conflict_worth=0.8
)
EQUAL, TOO_CLOSE = 1e-6, 3e-7
SHAPE = (31, 7)  # one, so that little is compiled
DROPPED = ("", "conflict", "consistency", "similarity")  # the last rule that a row needs dropped


class Plain:
    """Float64, everything anew at each step; `margin` is the closest decision."""

    def __init__(self, features, core, limits, rules, near):
        features = np.asarray(features, np.float64)
        lengths = np.linalg.norm(features, axis=1)
        g = features / np.where(lengths == 0, 1e-10, lengths)[:, None]
        self.g, self.cosines = g, g @ g.T
        k = np.asarray(core.core_CP, np.float64)
        self.to_core, self.weights = g @ k.T, core.weights_C / core.weights_C.sum()
        mean = self.weights @ k
        length = np.linalg.norm(mean)
        self.mean, self.length = mean / length if length > 1e-3 else 0 * mean, length
        self.limits, self.rules, self.near = limits, rules, near
        self.margin = np.inf

    def run(self):
        chosen, picks = [], []  # `chosen` is S
        start = 0  # of S', which a re-anchor begins anew
        beside, due = np.zeros(len(self.g)), 1
        while fitting := self.fitting(chosen):
            own = chosen[start:]
            aims, needs = self.aims(chosen)
            aims = aims - self.rules.drift * self.length * beside
            if own:
                dropped = {j: self.dropped(j, own) for j in fitting}
                yielded = self.yields(fitting, dropped, aims)
                tier = {
                    j: 2 * (0 if yielded and d == 1 else d)
                    + (self.near is not None and j not in self.near[own[-1]])
                    for j, d in dropped.items()
                }
                lowest = min(tier.values())
                if lowest > 1 and self.rules.on_exhausted == "stop":
                    return picks
                if lowest > 1 and self.rules.on_exhausted == "reanchor":
                    start = len(chosen)
                    continue
                pull = self.rules.pull if lowest % 2 == 0 else 1.0
                row = self.largest(
                    {
                        j: (1 - pull) * self.cosines[j, own[-1]] + pull * aims[j]
                        for j in fitting
                        if tier[j] == lowest
                    }
                )
                reason = ("neighbour", "fallback")[lowest] if lowest < 2 else ""
                reason = reason or f"relaxed {DROPPED[lowest // 2]}"
                if yielded and dropped[row] == 1:
                    reason = "worth a conflict"
            else:
                row = self.largest({j: aims[j] for j in fitting})
                reason = "reanchor" if chosen else "anchor"
            gains = needs * np.maximum(self.to_core[row], 0)
            picks.append((row, gains, reason))
            chosen.append(row)
            if len(chosen) >= due:
                beside, due = self.beside(chosen[start:]), len(chosen) + max(len(chosen) // 16, 1)
        return picks

    def fitting(self, chosen):
        costs, source = self.limits.costs_N, self.limits.sources_N
        rest = self.limits.budget - sum(costs[s] for s in chosen)
        spent = Counter()
        for s in chosen:
            spent[source[s]] += costs[s]
        return [
            j
            for j in range(len(self.g))
            if j not in chosen
            and costs[j] <= rest
            and spent[source[j]] + costs[j] <= self.limits.cap
        ]

    def beside(self, own):
        across = self.g - np.outer(self.g @ self.mean, self.mean)
        return across @ across[own].mean(axis=0)

    def aims(self, chosen):
        adds = np.maximum(self.to_core, 0)
        best = self.weights @ adds.max(axis=0) or 1.0
        needs = self.weights * (1 + adds[chosen].sum(axis=0) / best) ** -self.rules.fairness
        needs = needs / needs.sum()
        return adds @ needs, needs

    def dropped(self, j, own):
        cosines = [self.cosines[j, s] for s in own]
        dropped = 0
        if not self.at_least(min(cosines), -self.rules.conflict_tolerance):
            dropped = 1
        if not self.at_least(self.along([*own, j]), self.rules.delta * self.along(own)):
            dropped = 2
        cap = self.rules.max_similarity
        if cap < 1 and not self.at_least(cap, max(cosines)):
            dropped = 3
        return dropped

    def yields(self, fitting, dropped, aims):
        kept = max((aims[j] for j in fitting if dropped[j] == 0), default=-np.inf)
        free = max((aims[j] for j in fitting if dropped[j] <= 1), default=-np.inf)
        if self.rules.conflict_worth == 0 or free <= 0:
            return False
        self.margin = min(self.margin, abs(free))
        return not self.at_least(kept, self.rules.conflict_worth * free)

    def along(self, rows):
        total = self.g[rows].sum(axis=0)
        length = np.linalg.norm(total)
        self.margin = min(self.margin, abs(length**2 - 1e-6))
        return 0.0 if length <= 1e-3 else abs(total @ self.mean) / length

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
    {"delta": 0.95, "pull": 0.3, "conflict_worth": 0.0},
    {"conflict_tolerance": 0.2, "max_similarity": 0.7, "fairness": 0.0},
    {"on_exhausted": "stop", "pull": 0.5, "conflict_worth": 0.5},
    {"on_exhausted": "reanchor", "delta": 0.99, "pull": 0.0, "max_similarity": 0.5},
    {"on_exhausted": "stop", "conflict_worth": 0.0, "fairness": 20.0},
    {"conflict_worth": 1.0, "delta": 0.9},
    {"drift": 1.0, "fairness": 0.0, "conflict_tolerance": 1.0},
    {"drift": 0.5, "fairness": 1.0, "on_exhausted": "reanchor", "conflict_worth": 0.0},
    {"drift": 3.0, "pull": 0.7},
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_equals_the_transcription(dtype):
    """Components and validation rows as directions, rows and tokens, caps, stored neighbours."""
    seen: Counter = Counter()
    for seed in range(84):
        unit, cap = (("rows", 1.0), ("tokens", 0.6))[seed // 2 % 2]
        edges, components = 4 * (seed // 4 % 2), seed % 4 == 3 and dtype == "float32"
        problem = instance(seed, unit, cap, dtype, shape=SHAPE, edges=edges, components=6)
        features = problem.rows
        core = problem.core if components else rows_core(seed, features.shape[1])
        rules = replace(TOGETHER, **CASES[seed % len(CASES)])
        selection = gradient_walk(features, core, problem.limits, rules, problem.near)
        near = None if problem.near is None else problem.near.tolist()
        plain = Plain(features[:], core, problem.limits, rules, near)
        expected = plain.run()
        if plain.margin < TOO_CLOSE:
            seen["too close to call"] += 1
            continue
        found = [(pick.row, pick.reason) for pick in selection.picks]
        assert found == [(row, reason) for row, _, reason in expected], (seed, rules)
        for pick, (_, gains, _) in zip(selection.picks, expected, strict=True):
            assert gains[pick.component] == pytest.approx(gains.max(), abs=1e-6)
            core_cosine = plain.to_core[pick.row, pick.component]
            assert pick.cos_component == pytest.approx(core_cosine, abs=2e-6)
        seen.update({reason for *_, reason in expected})
        seen["compared"] += 1
    assert seen["compared"] >= 65, seen
    reasons = ("anchor", "reanchor", "neighbour", "fallback", "worth a conflict")
    relaxed = ("relaxed conflict", "relaxed consistency", "relaxed similarity")
    assert min(seen[what] for what in (*reasons, *relaxed)) >= 2, seen


def test_drift_of_a_long_walk():
    """It is measured after every row at first, and then when a sixteenth more are chosen."""
    compared = 0
    for seed in range(6):
        rows_NP = np.random.default_rng(seed).normal(size=(120, 7)).astype(np.float32)
        core, budget = rows_core(seed, 7), plain_limits(120, 100)
        rules = replace(TOGETHER, drift=2.0, fairness=1.0, conflict_tolerance=1.0)
        plain = Plain(rows_NP, core, budget, rules, None)
        expected = [row for row, *_ in plain.run()]
        if plain.margin > TOO_CLOSE:
            assert gradient_walk(rows_NP, core, budget, rules).rows == expected, seed
            compared += 1
    assert compared >= 2


def test_rows_of_one_kind_beside_the_target_make_room_for_others():
    """Without drift all that is chosen leads to one side; with it, to both in turn."""
    left, right = np.array([0.7, 0.7]), np.array([0.6, -0.8])
    rows_NP = np.stack([*[left] * 6, *[right] * 6]).astype(np.float32)
    rules = replace(TOGETHER, fairness=0.0, conflict_tolerance=1.0)
    core = Core(np.array([[1, 0]], np.float32), np.ones(1), np.ones(1), 1)
    assert gradient_walk(rows_NP, core, plain_limits(12, 6), rules).rows == list(range(6))
    steady = gradient_walk(rows_NP, core, plain_limits(12, 6), replace(rules, drift=1.0))
    assert sum(row < 6 for row in steady.rows) in (3, 4)


ON_FRONT = [rules for rules in CASES if rules.get("pull", 1) == 1]
ON_FRONT += [{"on_exhausted": "reanchor", "delta": 0.99, "max_similarity": 0.5}]


@pytest.mark.parametrize("sizes", [(4, 12), (8, 20), (25, 6)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_the_front_changes_nothing_but_the_reads(dtype, sizes, monkeypatch):
    """Rows in all directions, so that aims are close and rule 5 often yields; tokens and caps."""
    saved, longest = 0, 0
    for seed in range(14):
        unit, cap = (("rows", 1.0), ("tokens", 0.6))[seed // 7 % 2]
        problem = instance(seed, unit, cap, dtype, shape=(61, 7), edges=0)
        rules = replace(TOGETHER, **ON_FRONT[seed % len(ON_FRONT)])
        core = rows_core(seed, 7)
        whole = gradient_walk(problem.rows, core, problem.limits, rules)
        monkeypatch.setattr(select, "FRONT", sizes[0])
        monkeypatch.setattr(select, "WAITING", sizes[1])
        found = gradient_walk(problem.rows, core, problem.limits, rules)
        monkeypatch.undo()
        if (whole.summary["closest_decision"] or 1) < TOO_CLOSE:
            continue
        assert len(found.picks) == len(whole.picks)
        for pick, other in zip(found.picks, whole.picks, strict=True):
            assert (pick.row, pick.reason, pick.component) == (
                other.row,
                other.reason,
                other.component,
            )
            for name in ("score", "cos_previous", "cos_component", "cos_smallest"):
                seen = getattr(pick, name), getattr(other, name)
                assert seen[0] == seen[1] or seen[0] == pytest.approx(seen[1], abs=1e-6), (
                    name,
                    seed,
                )
        assert found.summary["components"] == whole.summary["components"]
        saved += whole.summary["passes"] - found.summary["passes"]
        longest = max(longest, len(found.picks))
    assert saved > longest


def test_a_row_outside_the_front_may_be_worth_a_conflict(monkeypatch):
    """The second direction is wanted once the first is served three times; its only row conflicts
    with the first row and is not in the second front, where a row for the first direction waits."""
    second = [-0.28, 0.96]
    core = Core(np.array([[1, 0], second], np.float32), np.array([0.9924, 0.0076]), np.ones(2), 2)
    sines = [0, -0.24, -0.31, -0.44, -0.53]
    rows_NP = np.array([*([(1 - s * s) ** 0.5, s] for s in sines), second, [-1, 0]], np.float32)
    for front in (100, 2):
        monkeypatch.setattr(select, "FRONT", front)
        found = gradient_walk(rows_NP, core, plain_limits(7, 4), replace(TOGETHER, delta=0.0))
        assert found.rows == [0, 1, 2, 5], front
        assert found.picks[3].reason == "worth a conflict"


def test_a_walk_that_starts_anew_forgets_its_conflicts(monkeypatch):
    """Rows outside the front that conflicted with the S' before may keep rule 5 with the new S'."""
    rules = replace(TOGETHER, on_exhausted="reanchor", conflict_worth=0.0, delta=0.0)
    anew = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        rows_NP = rng.normal(size=(60, 4)).astype(np.float32)
        core = axes(4, rng.dirichlet(np.ones(4) / 2)) if seed % 2 else rows_core(seed, 4)
        whole = gradient_walk(rows_NP, core, plain_limits(60, 30), rules)
        monkeypatch.setattr(select, "FRONT", 10)
        found = gradient_walk(rows_NP, core, plain_limits(60, 30), rules)
        monkeypatch.undo()
        if (whole.summary["closest_decision"] or 1) > TOO_CLOSE:
            assert found.rows == whole.rows, seed
            anew += [pick.reason for pick in found.picks].count("reanchor")
    assert anew > 40


def plain_limits(rows: int, budget: int) -> Limits:
    config = BudgetConfig(budget=budget, unit="rows", source_cap=1.0)
    return limits(config, np.ones(rows, int), np.zeros(rows, int))


def axes(count: int, weights=None) -> Core:
    """As many directions across each other."""
    weights = np.full(count, 1 / count) if weights is None else np.array(weights)
    return Core(np.eye(count, dtype=np.float32), weights, weights, count)


def test_the_least_served_direction_pulls_most():
    """All rows lie on the axes; the first axis has the better ones. Without fairness only it."""
    rows_NP = np.array([[1, 0.0], [1, 0.1], [1, 0.2], [0.6, 0.8], [0.5, 0.8]], np.float32)
    skewed = axes(2, [0.9, 0.1])
    fair = gradient_walk(rows_NP, skewed, plain_limits(5, 3), TOGETHER)
    assert [pick.component for pick in fair.picks].count(1) >= 1
    unfair = gradient_walk(rows_NP, skewed, plain_limits(5, 3), replace(TOGETHER, fairness=0.0))
    assert {pick.component for pick in unfair.picks} == {0}
    assert sorted(unfair.rows) == [0, 1, 2]


def test_the_largest_fairness_serves_the_least_served_direction_alone():
    """Far beyond what a power in float32 can hold."""
    rng = np.random.default_rng(0)
    rows_NP = np.abs(rng.normal(size=(400, 5))).astype(np.float32)
    rules = replace(TOGETHER, fairness=1e4)
    selection = gradient_walk(rows_NP, axes(5), plain_limits(400, 300), rules)
    assert len(set(selection.rows)) == 300
    assert np.isfinite([pick.score for pick in selection.picks]).all()
    served_D = (rows_NP / np.linalg.norm(rows_NP, axis=1, keepdims=True))[selection.rows].cumsum(0)
    least = [pick.component == served_D[n].argmin() for n, pick in enumerate(selection.picks[1:])]
    assert np.mean(least) > 0.95


def test_no_fairness_is_the_mean_influence():
    """On rows in no conflict: the ranking by the weighted mean of positive cosines."""
    rng = np.random.default_rng(0)
    rows_NP = np.abs(rng.normal(size=(40, 5))).astype(np.float32)
    weights = np.array([0.4, 0.3, 0.1, 0.1, 0.1])
    rules = replace(TOGETHER, fairness=0.0, delta=0.0)
    selection = gradient_walk(rows_NP, axes(5, weights), plain_limits(40, 12), rules)
    units_NP = rows_NP / np.linalg.norm(rows_NP, axis=1, keepdims=True)
    assert selection.rows == np.argsort(-units_NP @ weights)[:12].tolist()


def test_a_direction_of_no_weight_does_not_count():
    rows_NP = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    selection = gradient_walk(rows_NP, axes(3, [0.5, 0.5, 0]), plain_limits(12, 8), TOGETHER)
    assert sorted(selection.rows) == list(range(8))
    assert [c["rows"] for c in selection.summary["components"]] == [4, 4, 0]


def test_rule_5_yields_where_it_costs_too_much():
    """Two directions that pull apart: the best row for the second conflicts with the first row."""
    core = Core(np.array([[1, 0], [-0.28, 0.96]], np.float32), np.full(2, 0.5), np.ones(2), 2)
    rows_NP = np.array([[1, 0], [-0.28, 0.96], [0.3, -0.95]], np.float32)
    rules = replace(TOGETHER, delta=0.0)
    held = gradient_walk(rows_NP, core, plain_limits(3, 2), replace(rules, conflict_worth=0.0))
    assert held.rows == [0, 2]
    free = gradient_walk(rows_NP, core, plain_limits(3, 2), rules)
    assert free.rows == [0, 1]
    assert free.picks[1].reason == "worth a conflict"
    assert free.picks[1].cos_smallest == pytest.approx(-0.28)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_budget_is_used_up_and_caps_are_kept(data):
    """Relaxing, no row that still fits is left; in rows that is the budget or the whole pool."""
    seed = data.draw(st.integers(0, 10_000))
    unit, cap = data.draw(st.sampled_from([("rows", 1.0), ("rows", 0.4), ("tokens", 0.5)]))
    problem = instance(seed, unit, cap, shape=SHAPE, edges=4 * (seed % 2))
    core = rows_core(seed, problem.features_NP.shape[1])
    selection = gradient_walk(problem.features_NP, core, problem.limits, TOGETHER, problem.near)
    rows, own = selection.rows, problem.limits
    assert len(set(rows)) == len(rows)
    spent = own.costs_N[rows].sum()
    by_source = np.bincount(own.sources_N[rows], own.costs_N[rows], minlength=2)
    assert spent == selection.summary["spent"] <= own.budget
    assert by_source.max(initial=0) <= own.cap
    left = np.setdiff1d(np.arange(len(own.costs_N)), rows)
    fits = (spent + own.costs_N <= own.budget) & (by_source[own.sources_N] + own.costs_N <= own.cap)
    assert not fits[left].any()
    assert sum(c["spent"] for c in selection.summary["components"]) == spent


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on_exhausted": "redistribute"}, r"walk\.on_exhausted: redistribute needs walk\.order"),
        ({"order": "turn"}, r"walk\.order: 'turn' is none of components, together"),
        ({"fairness": -1.0}, r"walk\.fairness: -1\.0 must be a finite number"),
        ({"fairness": float("nan")}, r"walk\.fairness: nan"),
        ({"conflict_worth": 1.5}, r"walk\.conflict_worth: 1\.5 must be from 0 to 1"),
    ],
)
def test_what_has_no_meaning_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        replace(TOGETHER, **changes)
