"""The notebook: it is kept without outputs, and runs from its first cell to its last."""

import json
import re

import nbformat
import pytest
from nbclient import NotebookClient

from g2is_jax.skills.world import WorldConfig, write_world
from tests.support.small import ROOT

FILE = ROOT / "docs/quickstart.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(FILE, as_version=4)


def test_it_is_kept_as_it_was_before_a_run(notebook):
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1


def read_chat(line: str) -> list[str]:
    return [message["content"] for message in json.loads(line)["messages"]]


def test_it_runs(notebook, tmp_path, monkeypatch):
    """At a small scale, with a pool of one's own in another shape of rows."""
    write_world(tmp_path, WorldConfig(1, ("sorting_letters",), 0.05, 0.08, 0.08, 8, 20))
    said = [read_chat(line) for line in (tmp_path / "pool.jsonl").read_text().splitlines()]
    own = [{"instruction": question, "output": reply} for question, reply in said]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    number = next(
        n for n, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", [])
    )
    small = 'SCALE, METHODS, POOL = 0.05, "none,random,g2is", "own.jsonl"'
    notebook.cells.insert(number + 1, nbformat.v4.new_code_cell(small))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output.data for output in outputs if "data" in output]
    assert sum("image/png" in data for data in shown) == 1
    [page] = [data["text/html"] for data in shown if "text/html" in data]
    assert page.count("&lt;svg") >= 5
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert len(re.findall(r"row \d+, for example \d+: \w+", printed)) == 5
    [losses] = [
        eval(data["text/plain"]) for data in shown if "'g2is'" in data.get("text/plain", "")
    ]
    assert losses["g2is"] < losses["base"]
