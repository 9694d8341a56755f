"""Selections whose features stay on disk are those of features in memory."""

import json
import shutil

import numpy as np
import pytest
from etils import epath

from configs import default
from g2is_jax.features.exchange import import_features
from g2is_jax.features.store import StoreConfig
from g2is_jax.pipeline import own_features, selection_stage
from g2is_jax.runs.errors import InputError
from tests.support.small import stages
from tests.support.small_job import changed, job_of_files

METHODS = "less,less_rr,knn_even,coverage,pursuit,g2is_paper,g2is"


@pytest.fixture(scope="module")
def config(base, files):
    return job_of_files(
        base,
        files,
        run__methods=METHODS,
        warmup__keep_checkpoints=2,
    )


@pytest.mark.parametrize("checkpoints", [1, 2])
def test_every_method_chooses_the_same_rows(config, checkpoints, tmp_path):
    own = changed(config, grads__checkpoints=checkpoints)
    folders = {}
    for memory in ("memory", "disk"):
        workdir = epath.Path(tmp_path / memory)
        if memory == "disk":  # the same features
            shutil.copytree(tmp_path / "memory" / "stages", tmp_path / memory / "stages")
            for folder in (tmp_path / memory / "stages").glob("selection-*"):
                shutil.rmtree(folder)
        chosen = selection_stage.run(changed(own, selection__memory=memory), workdir)
        folders[memory] = [(of.folder.name, of.rows) for of in chosen]
    assert folders["disk"] == folders["memory"]
    ordered = [name for name in stages(tmp_path / "disk") if name.startswith("ordered-")]
    assert len(ordered) == 2  # of both kinds of the pool's features
    assert not [name for name in stages(tmp_path / "memory") if name.startswith("ordered-")]


def test_features_of_ones_own(tmp_path):
    """A store that is no stage; the same command without it finds the selection."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "F.npy", rng.normal(size=(60, 24)).astype(np.float32))
    np.save(tmp_path / "V.npy", rng.normal(size=(7, 24)).astype(np.float32))
    store = epath.Path(tmp_path / "store")
    import_features(epath.Path(tmp_path / "F.npy"), store, StoreConfig("bfloat16", 16))
    lines = []
    for memory in ("disk", "memory"):
        own = changed(default.get_config(), run__methods="g2is", selection__memory=memory)
        out = epath.Path(tmp_path / memory)
        own_features.run(own, out, store, epath.Path(tmp_path / "V.npy"))
        text = (out / "selection.jsonl").read_text()
        lines.append([json.loads(line)["row"] for line in text.splitlines()])
    assert lines[0] == lines[1]
    assert len(lines[0]) == 3
    assert any(name.startswith("ordered-") for name in stages(tmp_path / "disk"))


def test_an_unknown_place(config, tmp_path):
    with pytest.raises(InputError, match=r"selection\.memory: 'tape' is none of auto"):
        selection_stage.run(changed(config, selection__memory="tape"), epath.Path(tmp_path))
