"""All stages of a run, for its methods and seeds, and the report of what came out."""

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.pipeline import report_page, scoring, selection_stage, shared_rows
from g2is_jax.pipeline.job import Job, open_checked_job
from g2is_jax.report.against import write_against
from g2is_jax.report.results_table import write_report
from g2is_jax.runs.processes import alone, is_first, wait_for_all


def run(config: ConfigDict, workdir: epath.Path) -> list[dict]:
    """Run what is not finished yet, write `report/`, print the table; returns the scores."""
    job = open_checked_job(config, workdir)
    scores = scoring.score_all(job)
    if is_first():
        with alone():
            _report(job, scores)
    wait_for_all("report written")  # a process that ended well does not come back to help
    return scores


def _report(job: Job, scores: list[dict]) -> None:
    """Write `report/`; print the table of scores and the path of the page."""
    workdir = job.stages.workdir
    shared_rows.write(job.data.shared, workdir / "report" / "overlap.json")
    print("\n" + write_report(scores, workdir / "report"))
    write_against(scores, workdir / "report")
    selection_stage.write_compositions(job)
    print(f"report: {report_page.write(job, scores)}")
