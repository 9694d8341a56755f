"""The page of a finished run, `report/report.html`, and the same in Markdown, `report/report.md`.

    python -m experiments.report --config=configs/tiny.py --workdir=runs/demo

Reads what run_all left in the work folder and computes nothing that takes long; an unfinished stage
is an error.
"""

from experiments.launch import launch
from g2is_jax.pipeline.report_page import run

if __name__ == "__main__":
    launch(run)
