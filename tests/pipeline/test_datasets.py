"""The pool of a run is the same one, and so is what is chosen of it, in every kind of file."""

import json
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from g2is_jax.pipeline import selection_stage
from g2is_jax.pipeline.job import open_job
from tests.support.dataset_hub import run_on_hub, serving
from tests.support.every_format import FORMATS, write_as
from tests.support.small_job import changed, write_config

METHODS = ("random", "length", "bm25")


def chosen(config, workdir: Path) -> tuple[list[int], list[dict], list[dict]]:
    """Tokens of the pool, what was chosen of it and why."""
    job = open_job(config, epath.Path(workdir))
    tokens = np.concatenate([example.tokens_T for example in job.data.pool.encoded]).tolist()
    why, rows = [], []
    for method in METHODS:
        folder = selection_stage.stage(job, method, job.data.targets[0], 0).folder
        why += [
            json.loads(line) for line in (folder / "selection.jsonl").read_text().split("\n")[:-1]
        ]
        rows += [
            json.loads(line) for line in (folder / "selected.jsonl").read_text().split("\n")[:-1]
        ]
    return tokens, why, rows


@pytest.fixture(scope="module")
def as_lines(file_config, tmp_path_factory):
    config = changed(file_config, run__methods=",".join(METHODS))
    return config, chosen(config, tmp_path_factory.mktemp("lines"))


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_selection(as_lines, tmp_path, kind):
    config, (tokens, why, rows) = as_lines
    pool = [json.loads(line) for line in Path(config.data.pool).read_text().split("\n") if line]
    file = write_as(kind, pool, tmp_path / "pool")
    found = chosen(changed(config, data__pool=str(file)), tmp_path / "work")
    assert found[:2] == (tokens, why)
    assert [row["messages"] for row in found[2]] == [row["messages"] for row in rows]
    assert len(rows) == 24


def test_the_same_selection_by_hub_id(as_lines, tmp_path):
    """By the script, as the hub's settings are read at import."""
    pytest.importorskip("datasets")
    config, _ = as_lines
    pool = Path(config.data.pool)
    found = {}
    with serving({"train.jsonl": pool.read_bytes()}) as endpoint:
        for place in (str(pool), "hf://some/rows"):
            file = write_config(tmp_path / "config.py", changed(config, data__pool=place))
            work = tmp_path / f"work{len(found)}"
            script = ["-m", "experiments.select_subset", f"--config={file}", f"--workdir={work}"]
            run_on_hub(script, tmp_path / "home", endpoint)
            chosen = sorted((work / "selections").rglob("selection.jsonl"))
            found[place] = [(path.relative_to(work), path.read_text()) for path in chosen]
    as_file, by_hub = found.values()
    assert as_file == by_hub
    assert len(as_file) >= len(METHODS)
