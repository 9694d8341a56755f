"""Published scores: given for the setting they are of, and for no other."""

import pytest

from g2is_jax.report.published import COT_PERCENT_BY_TASK, PERCENT_BY_TASK, published

SETTING = ("meta-llama/Llama-3.1-8B", "data/infinity_instruct.jsonl", 0.01, "gsm8k")


@pytest.mark.parametrize("checkpoint", [SETTING[0], "/models/Llama-3.1-8B/"])
def test_of_the_setting(checkpoint):
    assert published(checkpoint, *SETTING[1:])["g2is_paper"] == 62.02


@pytest.mark.parametrize(
    ("place", "other"),
    [
        (0, "meta-llama/Llama-3.1-8B-Instruct"),
        (1, "data/flan.jsonl"),
        (1, "infinity/flan.jsonl"),
        (2, 0.05),
        (2, None),
        (3, "answer"),
        (3, "gpqa_5shot"),
    ],
)
def test_of_no_other(place, other):
    changed = [*SETTING]
    changed[place] = other
    assert published(*changed) == {}


def test_means_are_the_published_ones():
    """The rows' means, which were published beside them."""
    for method, mean in {"g2is_paper": 48.55, "less": 47.17, "full": 47.15}.items():
        own = [figures[method] for figures in PERCENT_BY_TASK.values()]
        assert sum(own) / len(own) == pytest.approx(mean, abs=0.006)


def test_mean_of_the_second_hand_figures_is_the_published_one():
    assert sum(COT_PERCENT_BY_TASK.values()) / 5 == pytest.approx(49.31, abs=0.006)
