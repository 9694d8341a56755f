"""The table of results: means, standard errors, paired gains, and the files it is written to."""

import json
import math

import pytest
from etils import epath

from g2is_jax.evaluation.compare import seed_differences
from g2is_jax.report.results_table import (
    aggregate,
    markdown,
    plot,
    spread,
    tables,
    versus,
    write_report,
)

LOSSES = {"random": (1.0, 1.4, 1.2), "g2is": (0.7, 1.3, 0.7)}
MATCHES = {"random": (0.2, 0.3, 0.1), "g2is": (0.5, 0.4, 0.3)}


def scores(methods=("random", "g2is"), targets=("sums",), seeds=3) -> list[dict]:
    return [
        {
            "method": method,
            "target": target,
            "seed": seed,
            "metrics": {"answer_loss": LOSSES[method][seed], "exact_match": MATCHES[method][seed]},
            "rows": 10 + seed,
            "tokens": 1000 * (1 + seed),
            "seconds": 2.5 * (1 + seed),
        }
        for target in targets
        for method in methods
        for seed in range(seeds)
    ]


def cell(cells, method, metric):
    (found,) = [c for c in cells if (c.method, c.metric) == (method, metric)]
    return found


def test_mean_and_standard_error():
    found = cell(aggregate(scores()), "random", "answer_loss")
    assert found.mean == pytest.approx(1.2)
    assert found.stderr == pytest.approx(0.2 / math.sqrt(3))  # sample deviation is 0.2
    assert (found.seeds, found.rows, found.tokens, found.seconds) == (3, 11, 2000, 5.0)
    assert (found.gain, found.gain_stderr) == (None, None)


def test_gain_is_paired_and_more_is_better():
    """Loss fell by 0.3, 0.1 and 0.5; matches rose by 0.3, 0.1 and 0.2: both are gains."""
    cells = aggregate(scores())
    loss, match = (cell(cells, "g2is", metric) for metric in ("answer_loss", "exact_match"))
    assert loss.gain == pytest.approx(0.3)
    assert loss.gain_stderr == pytest.approx(0.2 / math.sqrt(3))
    assert match.gain == pytest.approx(0.2)
    assert match.gain_stderr == pytest.approx(0.1 / math.sqrt(3))


def test_a_score_may_name_metrics_of_which_less_is_better():
    """A harness's perplexity is one; its table has the task's own name of it."""
    rows = scores()
    for row in rows:
        row["metrics"] = {"web/perplexity": row["metrics"]["exact_match"]}
        row["less_is_better"] = ["web/perplexity"]
    cells = aggregate(rows)
    assert cell(cells, "g2is", "web/perplexity").gain == pytest.approx(-0.2)
    assert seed_differences(rows)[0].mean == pytest.approx(-0.2)
    assert "| web/perplexity | gain over random |" in markdown(cells)


def test_gain_pairs_by_seed_whatever_the_order():
    shuffled, plain = (
        cell(aggregate(rows), "g2is", "answer_loss") for rows in (scores()[::-1], scores())
    )
    assert shuffled.gain == pytest.approx(plain.gain)
    assert shuffled.gain_stderr == pytest.approx(plain.gain_stderr)


def test_gain_over_the_seeds_that_both_have():
    rows = [s for s in scores() if not (s["method"] == "random" and s["seed"] == 1)]
    found = cell(aggregate(rows), "g2is", "answer_loss")
    assert found.seeds == 3
    assert found.gain == pytest.approx(0.4)
    assert found.gain_stderr == pytest.approx(0.1)


def test_one_seed_has_no_error():
    found = cell(aggregate(scores(seeds=1)), "g2is", "answer_loss")
    assert (found.stderr, found.gain_stderr, found.seeds) == (None, None, 1)
    assert found.gain == pytest.approx(0.3)


def test_no_random_no_gain():
    found = cell(aggregate(scores(methods=("g2is",))), "g2is", "answer_loss")
    assert (found.gain, found.gain_stderr) == (None, None)


def test_targets_stay_apart():
    rows = scores(targets=("sums", "words"))
    for row in rows:
        if row["target"] == "words":
            row["metrics"] = {"answer_loss": 9.0, "exact_match": 0.0}
    found = [c for c in aggregate(rows) if c.metric == "answer_loss" and c.method == "g2is"]
    assert {c.target: round(c.mean, 6) for c in found} == {"sums": 0.9, "words": 9.0}
    assert {c.target: round(c.gain, 6) for c in found} == {"sums": 0.3, "words": 0.0}


def test_markdown():
    lines = markdown(aggregate(scores(targets=("sums", "words")))).splitlines()
    assert [line for line in lines if line.startswith("#")] == ["### sums", "### words"]
    assert lines[2] == (
        "| method | rows | tokens | seconds | answer loss (lower is better) | gain over random "
        "| exact match | gain over random |"
    )
    assert lines[4] == "| random | 11 | 2,000 | 5.0 | 1.200 ± 0.115 |  | 0.200 ± 0.058 |  |"
    assert lines[5] == (
        "| g2is | 11 | 2,000 | 5.0 | 0.900 ± 0.200 | +0.300 ± 0.115 "
        "| 0.400 ± 0.058 | +0.200 ± 0.058 |"
    )
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_zero_shot_and_the_whole_pool_are_always_in_the_table():
    """They have lines of results, or lines that say they were not run."""
    table = tables(aggregate(scores()))["sums"]
    assert [line[:2] for line in table.body[-2:]] == [["none", "not run"], ["full", "not run"]]
    rows = [row | {"method": row["method"].replace("g2is", "full")} for row in scores()]
    table = tables(aggregate(rows))["sums"]
    assert [line[0] for line in table.body] == ["random", "full", "none"]
    assert [line[1] for line in table.body] == ["11", "11", "not run"]


@pytest.mark.parametrize(
    ("mean", "stderr", "sign", "text"),
    [
        (None, None, "", ""),
        (0.5, None, "", "0.500"),
        (0.5, None, "+", "+0.500"),
        (-0.25, 0.125, "+", "-0.250 ± 0.125"),
    ],
)
def test_spread(mean, stderr, sign, text):
    assert spread(mean, stderr, sign) == text


@pytest.mark.parametrize("seeds", [1, 3])
def test_files(tmp_path, seeds):
    folder = epath.Path(tmp_path / "report")
    rows = scores(seeds=seeds, targets=("sums", "words"))
    table = write_report(rows, folder)
    written = (folder / "results.md").read_text()
    assert table == markdown(aggregate(rows))
    assert written == f"{table}\n{versus(seed_differences(rows))}"
    assert json.loads((folder / "scores.json").read_text()) == rows
    cells = json.loads((folder / "results.json").read_text())
    assert len(cells) == 2 * 2 * 2
    for found in cells:
        assert found.keys() >= {
            *("method", "target", "metric", "mean", "stderr"),
            *("seeds", "rows", "tokens", "seconds"),
        }
    found = json.loads((folder / "differences.json").read_text())
    assert len(found) == 2 * 2
    assert (folder / "results.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_plot_has_a_panel_for_each_target_and_metric(tmp_path):
    """More targets, a larger picture; nothing is left to a display."""
    heights = []
    for targets in (("sums",), ("sums", "words", "dates")):
        file = epath.Path(tmp_path / f"{len(targets)}.png")
        plot(aggregate(scores(targets=targets)), file)
        heights.append(int.from_bytes(file.read_bytes()[20:24], "big"))
    assert heights[1] == 3 * heights[0]


def test_a_name_is_no_formula(tmp_path):
    write_report(scores(targets=("$x^$",)), epath.Path(tmp_path))
    assert (tmp_path / "results.png").exists()


def test_versus_has_a_line_a_rival_and_a_column_a_target():
    table = versus(seed_differences(scores(targets=("sums", "words"))))
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert lines[0].startswith("| against | sums: answer loss | sums: exact match | words: ")
    assert lines[2].startswith("| random | +0.300 (-0.197..+0.797; 3/3) | +0.200 (")
    assert len({line.count("|") for line in lines}) == 1
    assert versus([]) == ""
    assert "| random | +0.300 (1/1) |" in versus(seed_differences(scores(seeds=1)))
