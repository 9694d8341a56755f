"""Each method against random and less, from the values of single test rows."""

import json

import numpy as np
import pytest
from etils import epath

from g2is_jax.report.against import against, against_table, write_against
from g2is_jax.report.results_table import write_report

ROWS, SEEDS = 40, 3


def scores() -> list[dict]:
    """Three methods on one target; on its last row the loss is not defined."""
    rng = np.random.default_rng(0)
    easy_M = rng.normal(size=ROWS)  # the same for all: it cancels in a pair
    found = []
    for method, better in (("random", 0.0), ("less", 0.2), ("g2is", 0.5)):
        for seed in range(SEEDS):
            loss_M = (3 + easy_M - better + 0.1 * rng.normal(size=ROWS)).tolist()
            right_M = (rng.random(ROWS) < 0.3 + better).astype(float).tolist()
            metrics = {"answer_loss": np.mean(loss_M[:-1]), "exact_match": np.mean(right_M)}
            per_row = {"answer_loss": [*loss_M[:-1], None], "exact_match": right_M}
            cost = {"rows": 4, "tokens": 50, "seconds": 1.0}
            one = {"method": method, "target": "sums", "seed": seed, "metrics": metrics}
            found.append(one | {"per_row": per_row} | cost)
    return found


def test_means_are_of_the_rows_that_count_for_both():
    given = scores()
    found = {(one.method, one.rival, one.metric): one for one in against(given)}
    assert found.keys() == {
        (method, rival, metric)
        for method, rival in (("less", "random"), ("g2is", "random"), ("random", "less"),
                              ("g2is", "less"))
        for metric in ("answer_loss", "exact_match")
    }  # fmt: skip
    for (method, rival, metric), one in found.items():
        sign = -1 if metric == "answer_loss" else 1
        means = {
            name: np.mean([s["metrics"][metric] for s in given if s["method"] == name])
            for name in (method, rival)
        }
        assert one.mean == pytest.approx(sign * (means[method] - means[rival]))
        assert one.low < one.mean < one.high
        assert (one.seeds, one.rows) == (SEEDS, ROWS - (metric == "answer_loss"))
    loss = found["g2is", "less", "answer_loss"]
    assert 0.2 < loss.low < 0.3 < loss.high < 0.4  # what all share is no part of the difference


def test_only_what_has_rows_is_compared():
    given = scores()
    for score in given:
        if score["method"] == "g2is":
            del score["per_row"]["exact_match"]
        if score["method"] == "less":
            del score["per_row"]
    found = against(given)
    assert {(one.method, one.rival, one.metric) for one in found} == {
        ("g2is", "random", "answer_loss")
    }
    assert against([score for score in given if score["method"] == "less"]) == []


def test_files_and_table(tmp_path):
    folder = epath.Path(tmp_path)
    text = write_against(scores(), folder)
    told = json.loads((tmp_path / "against.json").read_text())
    assert len(told) == 8
    [line] = [line for line in text.splitlines() if line.startswith("| g2is |")]
    one = next(o for o in told if (o["method"], o["rival"]) == ("g2is", "random"))
    assert f"{one['mean']:+.3f} ({one['low']:+.3f}..{one['high']:+.3f})" in line
    table = against_table(against(scores()))
    assert table.head[1] == "sums: answer loss, random"
    assert [line[0] for line in table.body] == ["less", "g2is", "random"]
    write_report(scores(), folder)
    assert "per_row" not in (tmp_path / "scores.json").read_text()
    assert write_against([], folder) == "\n"
