"""The sections of the page: who is best, what it cost, and why a row was chosen."""

import dataclasses
import itertools

import numpy as np
import pytest

from g2is_jax.evaluation.compare import row_differences, seed_differences
from g2is_jax.report.against import against_table
from g2is_jax.report.page import (
    cost_section,
    learning_curves,
    left_out,
    reasons,
    results,
    similarities,
    svg,
    walk_map,
)
from g2is_jax.report.page.blocks import Folded, Section, Table
from g2is_jax.report.page.cost_section import NOT_RECORDED, AdapterCost, FinishedStage
from g2is_jax.report.published import published
from g2is_jax.report.results_table import NOT_RUN
from g2is_jax.selection.walk.choice import REASONS
from tests.support.page_data import pick, scores, walk, walk_config
from tests.support.row_scores import row_scores


def losses(**by_method) -> list[dict]:
    """Answer losses of each method, a seed each."""
    return [
        {
            "method": method,
            "target": "sums",
            "seed": seed,
            "metrics": {"answer_loss": value},
            **{"rows": 1, "tokens": 1, "seconds": 1.0},
        }
        for method, values in by_method.items()
        for seed, value in enumerate(values)
    ]


def verdict(own: list[dict]) -> str:
    ahead = results.lead(own, "sums", "answer_loss")
    return results.verdict(own, "sums", "answer_loss", ahead)


def test_a_loss_is_reported():
    text = verdict(losses(less=(1.0, 1.1, 1.0), g2is=(1.5, 1.6, 1.5), random=(3.0, 3.0, 3.0)))
    assert "less is best at 1.033" in text
    assert "g2is loses to it by 0.500" in text
    assert "excludes zero" in text


def test_a_win_that_may_be_chance():
    text = verdict(losses(g2is=(1.0, 2.0), less=(1.1, 2.05), random=(3.0, 3.0)))
    assert "g2is is best" in text
    assert "less is the next, behind it by 0.075" in text
    assert "includes zero, so this may be chance" in text


def test_one_seed_proves_nothing():
    text = verdict(losses(g2is=(1.0,), less=(2.0,)))
    assert "g2is is best" in text
    assert "may be chance" in text
    assert "excludes" not in text


def test_equals():
    assert "all methods are equal" in verdict(losses(g2is=(1.0, 1.0), less=(1.0, 1.0)))
    text = verdict(losses(less=(1.0, 1.0), random=(1.0, 1.0), g2is=(2.0, 3.0)))
    assert "less and random are best, equal at 1.000" in text
    assert "g2is loses to them by 1.500" in text


def test_without_g2is_or_rivals():
    assert "less is best" in verdict(losses(random=(2.0, 2.0), less=(1.0, 1.0)))
    assert verdict(losses(random=(2.0, 2.0))).endswith("random is best at 2.000 ± 0.000.")


@pytest.mark.parametrize("seeds", [2, 5])
def test_verdict_agrees_with_the_interval(seeds):
    for seed in range(8):
        draws = np.random.default_rng(seed)
        own = losses(g2is=draws.normal(size=seeds), less=1 + draws.normal(size=seeds))
        (gap,) = seed_differences(own)
        text = verdict(own)
        assert ("excludes zero" in text) == (gap.low > 0 or gap.high < 0)
        assert ("g2is loses" in text) == (gap.mean < 0)


def test_the_best_are_marked():
    """Best is the least loss, and the largest share of exact matches; none among equals."""
    own = scores(seeds=2)
    table = next(b for b in results.section(own, {}).blocks[0].blocks if isinstance(b, Table))
    for column, best in ((4, min), (6, max)):
        run = [line for line in table.body if line[1] != NOT_RUN]
        means = [float(line[column].split(" ")[0]) for line in run]
        assert {line for line, c in table.best if c == column} == {means.index(best(means))}
    equal = results.section(losses(g2is=(1.0,), less=(1.0,)), {}).blocks[0].blocks
    assert next(b for b in equal if isinstance(b, Table)).best == frozenset()


def test_costs_do_not_depend_on_the_order_of_the_stages():
    seconds = [0.05, 2.0**52, *[0.4] * 10]  # 0.4 is lost when it is added to the large one
    stages = [FinishedStage(f"warmup-{n}", "warmup", s, None, 3600) for n, s in enumerate(seconds)]
    bodies = []
    for order in (stages, stages[::-1]):
        _, by_method, _, by_kind = cost_section.section(
            [AdapterCost("less", 1, 1, order)], order
        ).blocks
        bodies.append((by_method.body, by_kind.body))
    assert bodies[0] == bodies[1]
    assert bodies[0][1][0][2] == f"{2**52 + 4:,.1f}"


def test_intervals_over_seeds_and_rows_stand_on_the_page():
    """They are a table against random and less, where scores have values of single rows."""
    own = row_scores()
    part = results.section(own, {}).blocks[-1]
    assert part.title == "Random and less"
    assert part.blocks[1] == against_table(row_differences(own))
    without = [{name: of for name, of in score.items() if name != "per_row"} for score in own]
    assert results.section(without, {}).blocks[-1].title == "g2is against each method"


def test_published_scores_stand_beside_this_run():
    """The task's main metric in percent, their methods in their order; none for other targets."""
    own = scores(("gsm8k", "sums"))
    theirs = published("meta-llama/Llama-3.1-8B", "infinity.jsonl", 0.01, "gsm8k")
    of_gsm8k, of_sums, *_ = results.section(own, {"gsm8k": theirs}).blocks
    table = of_gsm8k.blocks[-1]
    mean = np.mean(
        [s["metrics"]["exact_match"] for s in own[: len(own) // 2] if s["method"] == "less"]
    )
    assert [line[:2] for line in table.body][:2] == [["g2is_paper", "62.02"], ["less", "60.65"]]
    assert [line[2] for line in table.body] == ["", f"{100 * mean:.2f}", "", ""]
    assert "theirs" in table.head[1]
    assert len(of_sums.blocks) == len(of_gsm8k.blocks) - 2


def test_bad_rows_by_reason():
    reasons = [
        {"reason": "no reply", "first_line": 1_234, "rows": 1_000},
        {"reason": "not JSON", "first_line": 7, "rows": 1},
    ]
    text, table = left_out.section("pool.jsonl", reasons).blocks
    assert text.text.startswith("1,001 rows of pool.jsonl cannot be learned from")
    assert table.body == [["1,234", "1,000", "no reply"], ["7", "1", "not JSON"]]
    assert left_out.section("pool.jsonl", []) is None


def test_costs_of_shared_stages():
    """Counted for each method, once in all; hours times devices."""
    shared = FinishedStage("features-1", "features", 1800.0, 2 * 10**9, 4)
    adapters = [
        AdapterCost(
            method,
            10,
            100,
            [shared, FinishedStage(f"finetune-{method}", "finetune", 360.0, 10**9, 4)],
        )
        for method in ("less", "g2is")
    ]
    _, by_method, _, by_kind = cost_section.section(
        adapters, [s for a in adapters for s in a.stages]
    ).blocks
    assert by_method.body[1][:6] == ["g2is", "10", "100", "1,800.0", "360.0", "2,160.0"]
    assert by_method.body[1][6:] == ["", "2.4", "2.00"]  # the whole pool was not trained on
    assert by_kind.body == [
        ["features", "1", "1,800.0", "4", "2", "2.00"],
        ["finetune", "2", "720.0", "4", "0.8", "1.00"],
        ["all", "3", "2,520.0", "", "2.8", "2.00"],
    ]


def test_costs_as_shares_of_the_whole_pools():
    tuned = [FinishedStage(f"finetune-{n}", "finetune", s, None, 1) for n, s in ((1, 9.0), (2, 40))]
    adapters = [AdapterCost("less", 1, 1, tuned[:1]), AdapterCost("full", 9, 9, tuned[1:])]
    _, by_method, *_ = cost_section.section(adapters, tuned).blocks
    column = by_method.head.index("share of full")
    assert [line[column] for line in by_method.body] == ["22.5%", "100.0%"]


def test_what_no_manifest_says_is_not_recorded():
    manifest = {"name": "warmup", "seconds": 3.0, "counts": {"rows": 4}}
    *_, by_kind = cost_section.section([], [cost_section.read_stage("warmup-1", manifest)]).blocks
    assert by_kind.body[0] == ["warmup", "1", "3.0", NOT_RECORDED, NOT_RECORDED, NOT_RECORDED]


def test_points_of_a_curve_keep_its_mean():
    """Weighted by tokens, whatever the number of steps; all within the epochs."""
    draws = np.random.default_rng(0)
    for steps in (1, 3, 4, 57, 1000):
        losses_S, tokens_S = draws.uniform(1, 2, steps), draws.integers(1, 50, steps)
        curve = learning_curves.Curve("g2is", "sums", 4, losses_S, tokens_S, [])
        epochs, means = learning_curves.thinned(curve)
        assert len(means) <= learning_curves.MOST_POINTS
        assert (np.diff(epochs) > 0).all()
        assert 0 < epochs[0] <= epochs[-1] < 4
        sizes = [tokens_S[part] for part in np.array_split(np.arange(steps), len(means))]
        whole = np.average(means, weights=[size.sum() for size in sizes])
        assert whole == pytest.approx(np.average(losses_S, weights=tokens_S))


def test_validation_curves_only_where_measured():
    curve = learning_curves.Curve("g2is", "sums", 2, [2.0, 1.0], [1, 1], [])
    measured = dataclasses.replace(curve, validation=[(0, 3.0), (1, 2.0)])
    for lines, pictures in (([curve], 1), ([curve, measured], 2)):
        *_, drawn = learning_curves.section(lines).blocks
        assert len(drawn.pictures) == pictures
    assert learning_curves.section([]) is None


def test_cosines_of_pairs():
    own = dataclasses.replace(
        walk("sums", "x"),
        sample_SP=np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]),
        validation_MP=np.array([[0.6, -0.8]]),
    )
    pairs, to_target = similarities.cosines(own)
    assert sorted(pairs.tolist()) == [-1, 0, 0]
    assert to_target.tolist() == [0.6, -0.8, -0.6]
    table = similarities.section([own]).blocks[1]
    assert table.body[0][-1] == "66.7%"
    assert table.body[0][4] == "33.3%"


def test_plane_of_the_map():
    """Orthonormal, and its shares are those of the variance along it."""
    rows_NP = np.random.default_rng(0).normal(size=(9, 5)) * [5, 1, 1, 3, 1]
    plane_2P, mean_P, shares_2 = walk_map.plane(rows_NP)
    assert plane_2P @ plane_2P.T == pytest.approx(np.eye(2))
    along_2 = (((rows_NP - mean_P) @ plane_2P.T) ** 2).sum(axis=0)
    assert along_2 / ((rows_NP - mean_P) ** 2).sum() == pytest.approx(shares_2)
    assert shares_2[0] > shares_2[1] > 0.1
    assert walk_map.plane(np.ones((3, 5)))[2].tolist() == [0, 0]  # equal rows span no plane


def test_every_reason_has_words():
    assert set(reasons.WORDS) == set(REASONS)
    rules = itertools.product(("components", "together"), (0.0, 0.5, 1.0), (0.0, 4.0))
    for order, pull, fairness in rules:
        config = walk_config(order=order, pull=pull, fairness=fairness)
        sentences = [reasons.sentence(pick(3, reason, "x"), config) for reason in reasons.WORDS]
        assert len(set(sentences)) == len(sentences)
        for text in sentences:
            assert "{" not in text
            assert "cosine 0.28 to this direction" in text
            assert text[0].isupper()


def test_sentences_tell_what_the_rules_looked_at():
    similar = reasons.sentence(pick(1, "neighbour", "x"), walk_config(pull=0.0))
    aimed = reasons.sentence(pick(1, "neighbour", "x"), walk_config(pull=1.0))
    assert "most similar to it" in similar
    assert "closest to this direction" in aimed
    by_order = [
        reasons.sentence(pick(1, "neighbour", "x"), walk_config(order=order, pull=1.0, drift=1.0))
        for order in ("together", "components")
    ]
    assert "the rows before beside the target" in by_order[0]
    assert "beside the target" not in by_order[1]  # where it is not read
    yielded = reasons.sentence(pick(1, "worth a conflict", "x"), walk_config())
    assert "conflicts with an earlier row (cosine -0.38)" in yielded
    assert "less than 70% as much" in yielded


def test_every_chosen_row_is_listed():
    """Under its direction, in order, with its id and the beginning of its prompt."""
    own = walk("sums", "x")
    part = reasons.section([own]).blocks[0]
    assert isinstance(part, Section)
    folds = [block for block in part.blocks if isinstance(block, Folded)]
    assert [fold.title.split(",")[0] for fold in folds] == [
        f"{sum(p['component'] == c for p in own.picks)} rows for direction {c}" for c in range(3)
    ]
    lines = [line for fold in folds for line in fold.blocks[0].body]
    assert sorted(line[1] for line in lines) == sorted(p["id"] for p in own.picks)
    for line in lines:
        assert line[4] == f"{own.prompts_K[int(line[0]) - 1][:160]}…"


def test_long_lists_end_with_a_word_on_the_rest():
    few = [pick(order, "neighbour", "x") | {"component": 0} for order in range(40)]
    many = [pick(order, "anchor", "x") | {"component": order} for order in range(70)]
    for picks in (few, many):
        own = dataclasses.replace(
            walk("sums", "x"),
            picks=picks,
            prompts_K=["p"] * len(picks),
            directions_C=["row"] * 70,
        )
        part = reasons.section([own]).blocks[0]
        folds = [block for block in part.blocks if isinstance(block, Folded)]
        assert len(folds) == min(len({p["component"] for p in picks}), reasons.MOST_DIRECTIONS)
        assert all(len(fold.blocks[0].body) <= reasons.MOST_ROWS for fold in folds)
    assert part.blocks[-1].text == "10 more directions are not listed."


def test_drawings_share_no_name():
    """Two drawings of the same kind on one page, and the colours of either scheme."""
    drawn = [svg.draw(lambda axis, n=n: axis.plot([0, n], marker="o"), "a < b") for n in (1, 2)]
    names = [set(svg.re.findall(r' id="([^"]*)"', picture.svg)) for picture in drawn]
    assert names[0]
    assert not names[0] & names[1]
    assert "currentColor" in drawn[0].svg
    assert svg.INK not in drawn[0].svg
    assert "<title>a &lt; b</title>" in drawn[0].svg
    styles = svg.colours([f"m{i}" for i in range(20)])
    assert len(set(styles.values())) == 20
