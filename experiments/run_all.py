"""All stages, for a list of methods and seeds: from pool and checkpoint to the table of scores.

    python -m experiments.run_all --config=configs/tiny.py --workdir=runs/demo

What that takes, told before anything is done (see dry_run.py), on chips of the table (`all` for a
line each), or by default on this machine, measured:

    python -m experiments.run_all --config=configs/tiny.py --workdir=runs/demo \\
        --dry_run --chip=v5e --devices=8
"""

from absl import flags
from etils import epath
from ml_collections import ConfigDict

from experiments import dry_run, evaluate, overlap, report, select_subset
from experiments.job import Job
from experiments.launch import launch
from g2is_jax.evaluation.against import write_against
from g2is_jax.evaluation.report import write_report
from g2is_jax.runs.processes import alone, is_first, wait_for_all


def run(config: ConfigDict, workdir: epath.Path) -> list[dict]:
    """Run what is not finished yet, write `report/`, print the table; returns the scores."""
    job = Job(config, workdir)
    job.check()
    scores = evaluate.scores(job)
    if is_first():
        with alone():
            _tell(job, scores)
    wait_for_all("report written")  # a process that ended well does not come back to help
    return scores


def _tell(job: Job, scores: list[dict]) -> None:
    """Write `report/` and print the table."""
    workdir = job.workdir
    overlap.write(job.shared_rows, workdir / "report" / "overlap.json")
    print("\n" + write_report(scores, workdir / "report"))
    print(write_against(scores, workdir / "report"))
    print(select_subset.write_compositions(job))
    print(f"report: {report.write(job, scores)}; selections: {workdir / 'selections'}")


def main() -> None:
    """Parse the flags and run, or tell what the run will take."""
    dry = flags.DEFINE_boolean("dry_run", False, "Tell what the run will take, and end.")
    chip = flags.DEFINE_string("chip", None, f"Of a dry run: {', '.join(dry_run.NAMES)}.")
    devices = flags.DEFINE_integer("devices", None, "Of a dry run: chips.")
    launch(run, lambda config: dry_run.instead(config, dry.value, chip.value, devices.value))


if __name__ == "__main__":
    main()
