"""Tables of kept scores, by hand."""

from g2is_jax.evaluation.tasks.reply_metrics import LOSS
from g2is_jax.report.scores_compared import against_all, overview, shared_rows


def score(method: str, seed: int, losses: list[float], chosen: list[int]) -> dict:
    return {
        "method": method,
        "target": "sums",
        "seed": seed,
        "metrics": {LOSS: sum(losses) / len(losses)},
        "per_row": {LOSS: losses},
        "rows": len(chosen),
        "tokens": 10 * len(chosen),
        "seconds": 2.0,
        "chosen": chosen,
    }


SCORES = [
    score("random", 0, [2.0, 4.0], [1, 2]),
    score("random", 1, [3.0, 5.0], [3, 4]),
    score("g2is", 0, [1.0, 3.0], [5, 6]),
    score("g2is", 1, [2.0, 4.0], [5, 7]),
]


def test_overview():
    table = overview(SCORES, LOSS)
    assert table.head == ["method", "seeds", "rows", "tokens", "seconds", "sums", "mean"]
    assert table.body[0] == ["random", "2", "2", "20", "2", "3.500 ± 0.500", "3.500"]
    assert table.body[1][-1] == "2.500"


def test_a_target_without_a_score_leaves_no_mean():
    table = overview([*SCORES, {**SCORES[0], "target": "words"}], LOSS)
    assert table.body[1][-2:] == ["", ""]


def test_against_all_is_paired():
    table = against_all(SCORES, LOSS)
    assert table.body == [["random", "+1.000 (+1.000..+1.000)"]]


def test_shared_rows():
    others = [score("g2is", 0, [1.0], [5, 6]), score("g2is", 1, [1.0], [8, 7])]
    assert shared_rows(SCORES, others).body == [["g2is", f"{(1 + 1 / 3) / 2:.2f}"]]
