"""Finished scores as lines of a file that outlives their work folder, to be compared later."""

import json
from collections.abc import Iterator

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.pipeline import scoring, selection_stage
from g2is_jax.pipeline.cases import cases
from g2is_jax.pipeline.datasets import Target
from g2is_jax.pipeline.job import Job, open_job
from g2is_jax.pipeline.selection_files import read_why
from g2is_jax.report.scores_compared import case_of
from g2is_jax.runs.errors import InputError, NotFinished
from g2is_jax.runs.storage import write_atomic
from g2is_jax.selection.methods import METHODS

DIGITS = 5  # of what is kept of a test row


def run(config: ConfigDict, workdir: epath.Path, file: epath.Path) -> int:
    """Put the scores of all finished cases of a run into a file; returns how many these are.

    A line holds a method, target and seed with its metrics and costs, the budget, the numbers of
    the chosen rows in the pool's file (`chosen`), and each metric of each test row (`per_row`).
    Other lines that the file has stay as they are; InputError where they are of another budget.
    """
    job = open_job(config, workdir, builds=False)
    asked = job.settings.selection.budget
    budget = f"{asked.budget:g} {asked.unit}"
    kept = {case_of(score): score for score in read_scores(file)} if file.exists() else {}
    if others := {score["budget"] for score in kept.values()} - {budget}:
        raise InputError(
            f"{file} holds scores at {', '.join(sorted(others))}, these are at {budget}; name "
            "another file"
        )
    found = [score | {"budget": budget} for score in _finished(job)]
    kept |= {case_of(score): score for score in found}
    lines = (json.dumps(kept[case], ensure_ascii=False) + "\n" for case in sorted(kept))
    write_atomic(file, "".join(lines))
    return len(found)


def read_scores(file: epath.Path) -> list[dict]:
    """The scores that a file holds; InputError names a line that is none."""
    scores = []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        try:
            score = json.loads(line)
            _ = case_of(score), score["budget"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{file}:{number}: no line of scores; experiments.keep_scores writes them"
            ) from error
        scores.append(score)
    return scores


def _finished(job: Job) -> Iterator[dict]:
    for case in cases(job, job.settings.selection.methods):
        try:
            score = scoring.score(job, *case)
            chosen = _chosen(job, *case)
        except NotFinished:
            continue
        of_rows = {
            metric: [value if value is None else round(value, DIGITS) for value in values]
            for metric, values in score["per_row"].items()
        }
        yield score | {"chosen": chosen, "per_row": of_rows}


def _chosen(job: Job, method: str, target: Target, seed: int) -> list[int]:
    if METHODS[method].choose is None:
        return []
    chosen = selection_stage.stage(job, method, target, seed)
    return [pick["row"] for pick in read_why(chosen.folder)]
