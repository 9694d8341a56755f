"""The exported graphs of a small job: every file, what it holds, and what is made again."""

import json
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from g2is_jax.graph import mixed_graph
from g2is_jax.pipeline import graph_export, method_inputs
from g2is_jax.pipeline.job import open_job
from g2is_jax.runs.errors import InputError
from tests.support.small import stages
from tests.support.small_job import changed, small_config

FILES = [
    *("adjacency_indices.npy", "adjacency_similarities.npy", "explained_variance.png"),
    *("graph.graphml", "graph.npz", "similarities.png", "statistics.json", "statistics.md"),
]


@pytest.fixture(scope="module")
def graph_config(base, files):
    """Two walks, one of which stores 5 neighbours a row, and two targets."""
    return changed(
        small_config(base),
        data__pool=str(files / "pool.jsonl"),
        data__validation=f"{files / 'val_plus.jsonl'},{files / 'val_pick.jsonl.gz'}",
        data__test=f"{files / 'test_plus.jsonl'},{files / 'test_pick.jsonl'}",
        run__methods="random,g2is_paper,g2is",
        paper__kind="rms",
        warmup__epochs=1,
        graph__kind="knn",
        graph__neighbours=5,
    )


@pytest.fixture(scope="module")
def exported(graph_config, tmp_path_factory) -> tuple[Path, list[epath.Path]]:
    workdir = tmp_path_factory.mktemp("graphs") / "work"
    return workdir, graph_export.run(graph_config, epath.Path(workdir))


def test_a_folder_for_each_walk_and_target(exported):
    workdir, folders = exported
    found = [str(folder.relative_to(workdir / "graphs")) for folder in folders]
    assert found == ["g2is_paper-0/plus", "g2is_paper-0/pick", "g2is-0/plus", "g2is-0/pick"]
    for folder in folders:
        assert sorted(file.name for file in folder.iterdir()) == FILES


def test_the_graph_is_of_the_features_of_the_walk(exported, graph_config):
    """Cosines of the edges, from the store; a walk of more neighbours than rows gets all."""
    workdir, _ = exported
    job = open_job(graph_config, epath.Path(workdir))
    for method, neighbours in (("g2is", 5), ("g2is_paper", 39)):
        rows = method_inputs.load_features(job, job.data.pool, method, 0)
        units_NP = rows[:].astype(np.float64)
        units_NP /= np.linalg.norm(units_NP, axis=1, keepdims=True)
        for target in job.data.targets:
            core = graph_export.directions(job, method, target, 0)
            place = workdir / "graphs" / f"{method}-0" / target.name
            with np.load(place / "graph.npz") as arrays:
                graph = dict(arrays)
            nodes_VP = np.concatenate([units_NP, core.core_CP])
            from_nodes = np.repeat(np.arange(len(nodes_VP)), np.diff(graph["indptr"]))
            assert (np.bincount(from_nodes)[:40] == neighbours).all()
            cosines = (nodes_VP[from_nodes] * nodes_VP[graph["indices"]]).sum(axis=1)
            np.testing.assert_allclose(graph["data"], cosines, atol=1e-5)
            assert graph["node_id"][:40].tolist() == [r.id for r in job.data.pool.records]
            sources = graph["sources"][graph["node_source"][:40]]
            assert sources.tolist() == [r.source for r in job.data.pool.records]
            told = json.loads((place / "statistics.json").read_text())
            assert told["knowledge"] == core.summary()
            assert (told["rows"], told["core_directions"]) == (40, len(core.core_CP))
            assert (told["left_out"], told["rows_not_finite"]) == ([], 0)
            title = (place / "statistics.md").read_text().splitlines()[0]
            assert title == f"# {method}, {target.name}, seed 0"


def test_what_is_too_large_is_left_out_and_told(exported, graph_config, monkeypatch, capsys):
    """From finished stages: nothing is extracted again. The other files are there."""
    workdir, folders = exported
    before = stages(workdir)
    monkeypatch.setattr(mixed_graph, "MOST_ADJACENCY_BYTES", 1000)
    one = changed(graph_config, run__methods="g2is")
    found = graph_export.run(one, epath.Path(workdir))
    assert found == folders[2:]
    assert stages(workdir) == before
    assert "left out: the sorted adjacency of 40 rows" in capsys.readouterr().out
    left = [name for name in FILES if not name.startswith("adjacency")]
    for folder in found:
        assert sorted(file.name for file in folder.iterdir()) == left
        (reason,) = json.loads((folder / "statistics.json").read_text())["left_out"]
        assert "adjacency of 40 rows" in reason


def test_the_first_process_alone_writes_graphs(exported, graph_config, monkeypatch):
    workdir, folders = exported
    files = [Path(folder) / "graph.npz" for folder in folders]
    before = [file.stat().st_mtime_ns for file in files]
    monkeypatch.setattr(graph_export, "is_first", lambda: False)
    assert graph_export.run(graph_config, epath.Path(workdir)) == folders
    assert [file.stat().st_mtime_ns for file in files] == before


def test_a_job_without_a_walk_has_no_graph(graph_config, tmp_path):
    config = changed(graph_config, run__methods="random,less")
    with pytest.raises(InputError, match=r"run\.methods.*g2is_paper"):
        graph_export.run(config, epath.Path(tmp_path / "work"))
