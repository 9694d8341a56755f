"""Reckoned beside measured: what is compared with what, and how a stage's peak is taken."""

import json
import sys

import numpy as np
import pytest

from experiments.bench import estimate as bench
from g2is_jax.pipeline.job import Job
from g2is_jax.planning.dry_run import read_plan
from g2is_jax.planning.stage_costs import stages
from g2is_jax.runs.errors import InputError

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak")


def test_every_stage_of_the_table_can_be_run(file_config, tmp_path):
    """By the name of its folders; the features of a file come from the warm-up's folder."""
    names = [stage.name for stage in stages(read_plan(file_config, 1)[0])]
    assert names == list(bench.GROUPS)
    job = Job(file_config, tmp_path / "work")
    for name in names:
        before, work = bench.calls(job, name)
        assert callable(before)
        assert callable(work)


def test_table_sets_reckoned_beside_measured(monkeypatch):
    reckoned = {"walk": {"seconds": 3.0, "memory": {"runtime": 1e9, "features": 5e8}}}

    def in_child(what, folder, config, stage=""):
        assert json.loads((folder / "config.json").read_text())["model"]["checkpoint"] == "skills"
        if what == "reckon":
            return {"stages": reckoned, "machine": {"told": "measured: so"}}
        assert stage == "walk"
        return {"seconds": 4.0, "memory": 3e9}

    monkeypatch.setattr(bench, "in_child", in_child)
    config = bench.BenchConfig("demo", 64, 5, 1, 1)
    machine = {"cpu": "a", "cores": [0]}
    result = {"settings": vars(config), "machine": machine, "versions": {}}
    table = bench.table(result | {"demo": bench.of_job("demo", config)})
    assert "demo: measured: so" in table
    assert "| walk | 3.00 | 4.00 | 0.75 | 1.50 | 3.00 | 0.50 |" in table


@needs_linux
def test_peak_is_counted_from_the_reset_on():
    before = bench.peak_memory()
    np.ones(2**23)  # 64 MB, given back at once
    assert bench.peak_memory() >= before
    bench.reset_peak()
    start = bench.peak_memory()
    np.ones(2**22)
    assert bench.peak_memory() - start == pytest.approx(8 * 2**22, rel=0.2)


@pytest.mark.parametrize(("field", "value"), [("parts", "x"), ("rows", 0), ("repeats", 0)])
def test_wrong_settings(field, value):
    fields = {"parts": "demo", "rows": 9, "tests": 9, "threads": 1, "repeats": 1}
    with pytest.raises(InputError, match=f"--{field}"):
        bench.BenchConfig(**fields | {field: value})
