"""The table of each method against random and less, and the files it is written to."""

import json

from etils import epath

from g2is_jax.evaluation.compare import row_differences
from g2is_jax.report.against import against_table, write_against
from g2is_jax.report.results_table import write_report
from tests.support.row_scores import row_scores


def test_files_and_table(tmp_path):
    folder = epath.Path(tmp_path)
    text = write_against(row_scores(), folder)
    written = json.loads((tmp_path / "against.json").read_text())
    assert len(written) == 8
    [line] = [line for line in text.splitlines() if line.startswith("| g2is |")]
    first = next(d for d in written if (d["method"], d["rival"]) == ("g2is", "random"))
    assert f"{first['mean']:+.3f} ({first['low']:+.3f}..{first['high']:+.3f})" in line
    table = against_table(row_differences(row_scores()))
    assert table.head[1] == "sums: answer loss, random"
    assert [line[0] for line in table.body] == ["less", "g2is", "random"]
    write_report(row_scores(), folder)
    assert "per_row" not in (tmp_path / "scores.json").read_text()
    assert write_against([], folder) == "\n"
