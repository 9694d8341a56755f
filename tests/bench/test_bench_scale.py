"""The benchmark of a selection at scale: in small, the command's own selection and memory."""

import dataclasses

import numpy as np
import pytest

from experiments.bench import scale as bench
from g2is_jax.runs.errors import InputError

CONFIG = bench.BenchConfig("conflict", "bfloat16", 300, 32, 0.05, "g2is,less", 1, "")


def test_a_small_pool_is_written_and_chosen_from(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "CHUNK_ROWS", 128)
    config = dataclasses.replace(CONFIG, folder=str(tmp_path))
    written = bench.write(config)
    assert np.load(tmp_path / "validation.npy").shape == (bench.VALIDATION, 32)
    assert written["bytes"] > 300 * 32 * 2
    selected = bench.select(config)
    assert {name: found["rows"] for name, found in selected["methods"].items()} == {
        "g2is": 15,
        "less": 15,
    }
    assert selected["methods"]["g2is"]["passes"] > 0
    assert selected["seconds"] > sum(found["seconds"] for found in selected["methods"].values())
    result = {
        "settings": dataclasses.asdict(config),
        "machine": {"cpu": "one", "cores": [0]},
        "versions": {},
        "write": {"seconds": 2.0, "bytes": 5},
        "select": selected | {"seconds": 9.0, "peak": 10 * 300 * 32 * 2},
    }
    assert "select_subset: 9 s, peak memory 0.00 GB, 10.00 of the features'" in bench.table(result)


@pytest.mark.parametrize(("field", "value"), [("case", "x"), ("rows", 0)])
def test_wrong_settings(field, value):
    with pytest.raises(InputError, match=f"--{field}"):
        dataclasses.replace(CONFIG, **{field: value})
