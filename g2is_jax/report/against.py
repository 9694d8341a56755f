"""The table of each method against `random` and `less`, with intervals over seeds and test rows."""

import json
from collections.abc import Sequence

from etils import epath

from g2is_jax.evaluation.compare import RowDifference, row_differences
from g2is_jax.evaluation.tasks.reply_metrics import title
from g2is_jax.report.page.blocks import Table
from g2is_jax.report.page.markdown import table_lines
from g2is_jax.report.results_table import PERCENT
from g2is_jax.runs.storage import write_atomic

AGAINST = (
    "How much better each method is than another one at the same seed, on the same test row: mean, "
    f"and {PERCENT} interval from drawing seeds and rows anew"
)


def against_table(differences: Sequence[RowDifference]) -> Table:
    """Makes a line for each method, and a column for each target, metric and rival."""
    by_cell = {(d.method, d.target, d.metric, d.rival): d for d in differences}
    columns = list(dict.fromkeys((d.target, d.metric, d.rival) for d in differences))
    head = ["method"]
    head += [f"{target}: {title(name).split(' (')[0]}, {rival}" for target, name, rival in columns]
    body = [
        [method, *(_cell_text(by_cell.get((method, *column))) for column in columns)]
        for method in dict.fromkeys(d.method for d in differences)
    ]
    return Table(head, body)


def _cell_text(found: RowDifference | None) -> str:
    return "" if found is None else f"{found.mean:+.3f} ({found.low:+.3f}..{found.high:+.3f})"


def write_against(scores: Sequence[dict], folder: epath.Path) -> str:
    """Writes `against.json` and `against.md`; returns the Markdown."""
    found = row_differences(scores)
    write_atomic(folder / "against.json", json.dumps([vars(d) for d in found], indent=2) + "\n")
    lines = [f"{AGAINST}.", "", *table_lines(against_table(found))] if found else []
    text = "\n".join(lines) + "\n"
    write_atomic(folder / "against.md", text)
    return text
