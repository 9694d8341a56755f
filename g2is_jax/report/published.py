"""The scores that Zhao et al. (ACL 2025) published, to stand beside a run of the same setting."""

from collections.abc import Mapping

from g2is_jax.report.page.blocks import Table

THEIRS = (
    "Published by Zhao et al. (ACL 2025) for this model, pool, share and task, in percent. Theirs, "
    "not measured here: their prompts, training settings and rows of the pool are not public."
)

MODEL, POOL, SHARE = "llama-3.1-8b", "infinity", 0.01  # of which they published each target
PERCENT_BY_TASK = {
    "bbh": {"g2is_paper": 64.78, "less": 63.46, "Sentence-BERT": 63.05, "full": 64.71},
    "gpqa": {"g2is_paper": 31.57, "less": 29.94, "Sentence-BERT": 30.55, "full": 29.74},
    "gsm8k": {"g2is_paper": 62.02, "less": 60.65, "Sentence-BERT": 56.79, "full": 58.30},
    "math": {"g2is_paper": 20.96, "less": 18.66, "Sentence-BERT": 20.22, "full": 20.26},
    "mmlu": {"g2is_paper": 63.42, "less": 63.15, "Sentence-BERT": 61.87, "full": 62.75},
}

# G2IS on the CoT pool, all else the same. Second-hand: from a note on the paper, whose mean of the
# five agrees with the paper's own.
COT_PERCENT_BY_TASK = {"bbh": 65.66, "gpqa": 32.59, "gsm8k": 62.70, "math": 21.38, "mmlu": 64.22}


def published(checkpoint: str, pool: str, share: float | None, task: str) -> Mapping[str, float]:
    """Returns their scores by method, in percent; none where none is public for this setting.

    checkpoint: hub id or path of the base model. pool: its file. share: of the pool that is chosen;
    None where the budget is no share of its rows.
    """
    model, file = (path.rstrip("/").rpartition("/")[2].lower() for path in (checkpoint, pool))
    if (model, share) != (MODEL, SHARE) or not file.startswith(POOL):
        return {}
    return PERCENT_BY_TASK.get(task, {})


def published_table(theirs: Mapping[str, float], ours: Mapping[str, float]) -> Table:
    """Returns a line for each method of theirs; ours: scores by method, as shares of 1."""
    lines = [
        [method, f"{percent:.2f}", f"{100 * ours[method]:.2f}" if method in ours else ""]
        for method, percent in theirs.items()
    ]
    return Table(["method", "published, theirs (%)", "this run (%)"], lines)
