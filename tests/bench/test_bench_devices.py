"""The benchmark of layouts: a difference in any stage's result is told."""

import json

import numpy as np
import pytest
from etils import epath

from experiments.bench import devices as bench
from g2is_jax.features.store import StoreConfig, StoreWriter
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.tensors import to_bytes


def write(workdir, by: float, chosen: str, reply: str) -> None:
    """A work folder of one stage of each kind, whose numbers are moved by so much."""
    stages = epath.Path(workdir) / "stages"
    with StoreWriter(stages / "features-1", range(3), StoreConfig("float32", 3)) as writer:
        writer.start([np.arange(3)])
        rows = np.eye(3, dtype=np.float32) + np.float32(by) * (np.arange(3) == 1)
        writer.write(0, rows, np.ones(3), np.ones(3))
    for name in ("finetune-1/adapter", "selection-1", "evaluate-1"):
        (stages / name).mkdir(parents=True)
    values = to_bytes({"A": np.array([1.0, -3.0 - by], np.float32)})
    (stages / "finetune-1" / bench.ADAPTER).write_bytes(values)
    (stages / "selection-1" / "selected.jsonl").write_text(chosen)
    rows = [{"loss": 1.0, "reply": "same"}, {"loss": 2.0 - by, "reply": reply}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (stages / "evaluate-1" / "rows.jsonl").write_text(text)


def test_each_kind_of_difference_is_told(tmp_path):
    write(tmp_path / "first", 0.0, "a", "b")
    write(tmp_path / "other", 0.5, "A", "B")
    same = bench.differences(tmp_path / "first", tmp_path / "first")
    assert same == {
        **dict.fromkeys(("features", "adapters", "losses"), 0.0),
        "largest": 3.0,
        "selections": [0, 1],
        "replies": [0, 2],
    }
    found = bench.differences(tmp_path / "other", tmp_path / "first")
    assert found["features"] > 0.1
    assert (found["adapters"], found["losses"]) == (0.5, 0.5)
    assert (found["selections"], found["replies"]) == ([1, 1], [1, 2])


def test_a_missing_stage_is_no_equality(tmp_path):
    write(tmp_path / "first", 0.0, "a", "b")
    (tmp_path / "other" / "stages").mkdir(parents=True)
    with pytest.raises(KeyError, match="finetune-1"):
        bench.differences(tmp_path / "other", tmp_path / "first")


@pytest.mark.parametrize("layouts", ["8", "1x0", "1x1,ax2"])
def test_wrong_layouts(layouts):
    with pytest.raises(InputError, match="--layouts"):
        bench.BenchConfig("c.py", "", layouts, False, 1)
