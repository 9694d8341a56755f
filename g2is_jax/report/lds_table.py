"""The table of linear datamodelling scores."""

import dataclasses
import json
from collections.abc import Mapping

from etils import epath

from g2is_jax.evaluation.datamodels import Lds
from g2is_jax.report.page.blocks import Table
from g2is_jax.report.page.markdown import table_lines
from g2is_jax.runs.storage import make_folder, write_atomic

Scores = Mapping[str, Mapping[str, Lds]]  # target -> what predicts -> its score


def write_lds(summary: dict, scores: Scores, reference: str, folder: epath.Path) -> str:
    """Writes `lds.json` and `lds.md`; returns what the latter holds.

    summary: subsets, their rows, and seconds, which the JSON has beside the scores.
    """
    make_folder(folder)
    found = {
        target: {name: dataclasses.asdict(lds) for name, lds in of.items()}
        for target, of in scores.items()
    }
    written = json.dumps(summary | {"targets": found}, indent=2) + "\n"
    write_atomic(folder / "lds.json", written)
    text = markdown(scores, reference)
    write_atomic(folder / "lds.md", text)
    return text


def markdown(scores: Scores, reference: str) -> str:
    """A row for all that predicts, with its score and its lead over the reference on each target;
    the best on average first."""
    names = list(next(iter(scores.values())))
    names.sort(key=lambda name: -sum(of[name].mean for of in scores.values()))
    title = ["score of a pool row"]
    for target in scores:
        title += [target, f"{target}: lead"]
    rows = []
    for name in names:
        cells = [name]
        for of in scores.values():
            lds = of[name]
            cells += [
                f"{lds.mean:.3f} ({lds.low:.3f}..{lds.high:.3f})",
                f"{lds.lead:+.3f} ({lds.lead_low:+.3f}..{lds.lead_high:+.3f})",
            ]
        rows.append(cells)
    lines = table_lines(Table(title, rows))
    return f"Leads are over {reference}.\n\n" + "\n".join(lines) + "\n"
