"""Selections from rows on disk, killed one after another, are those from rows in memory."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from etils import epath

from g2is_jax.features.exchange import import_features
from g2is_jax.features.store import StoreConfig
from tests.support.small import ROOT

METHODS = ("g2is_paper", "g2is", "less_rr", "bids", "coverage")
PROGRAM = """
import json, sys
from experiments.select_subset import main
from tests.support.forked import fault_at
kill = json.loads(sys.argv.pop(1))
if kill:
    fault_at(**kill)
main()
"""
# In the middle of the rows' file; then within the first selection, and each time one further on.
KILLS = [r"ordered-.*/rows\.bin", r"ordered-.*/\.rows\.json"]
KILLS += [r"selection-.*\.selection\.jsonl"] * len(METHODS)


def select(folder: Path, memory: str, kill: dict | None = None) -> int:
    flags = [
        "--config=configs/default.py",
        f"--workdir={folder / memory}",
        f"--train_features={folder / 'store'}",
        f"--validation_features={folder / 'V.npy'}",
        f"--config.run.methods={','.join(METHODS)}",
        "--config.selection.budget=0.1",
        f"--config.selection.memory={memory}",
    ]
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(kill), *flags],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=120,
    ).returncode


def test_killed_one_after_another(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "F.npy", rng.normal(size=(90, 24)).astype(np.float32))
    np.save(tmp_path / "V.npy", rng.normal(size=(7, 24)).astype(np.float32))
    store = epath.Path(tmp_path / "store")
    import_features(epath.Path(tmp_path / "F.npy"), store, StoreConfig("float32", 16))
    seen = 0
    for path in KILLS:
        finished = len(list((tmp_path / "disk").glob("stages/selection-*[!t]")))
        times = 2 if path.startswith("selection") and finished < len(METHODS) - 1 else 1
        kill = {"event": "open", "path": path, "times": times, "by": signal.SIGKILL}
        ended = select(tmp_path, "disk", kill)
        assert ended in (0, -signal.SIGKILL)
        seen += ended == -signal.SIGKILL
    assert seen == len(KILLS)
    assert select(tmp_path, "disk") == select(tmp_path, "memory") == 0
    for method in METHODS:
        rows = [
            [json.loads(line)["row"] for line in text.splitlines()]
            for memory in ("disk", "memory")
            for text in ((tmp_path / memory / method / "selection.jsonl").read_text(),)
        ]
        assert rows[0] == rows[1]
        assert len(rows[0]) == 9
