"""The mixed gradient graph of each walk, to look at: npz, GraphML, sorted adjacency, statistics.

    python -m experiments.export_graph --config=configs/tiny.py --workdir=runs/demo

Reads the features that the selection reads, and makes those that are not there yet. The graph has
`graph.neighbours` edges a row, whether the walk stores them or not.
"""

import json
from collections.abc import Callable, Sequence

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.graph import statistics
from g2is_jax.graph.mixed_graph import (
    Nodes,
    TooLarge,
    mixed_graph,
    write_adjacency,
    write_graphml,
    write_npz,
)
from g2is_jax.pipeline import method_inputs
from g2is_jax.pipeline.datasets import Target
from g2is_jax.pipeline.job import Job, open_job
from g2is_jax.report import graph_page
from g2is_jax.report.figures import plot_explained, plot_similarities
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import make_folder, write_atomic
from g2is_jax.selection.core import Core
from g2is_jax.selection.methods import core_of

GRAPHML = ("graph.graphml",)
ADJACENCY = ("adjacency_indices.npy", "adjacency_similarities.npy")


def run(config: ConfigDict, workdir: epath.Path) -> list[epath.Path]:
    """One folder for each walk among the methods, each target and seed, under `graphs/`."""
    job = open_job(config, workdir)
    walks = [
        method
        for method in job.settings.selection.methods
        if method in job.settings.selection.walks
    ]
    if not walks:
        known = ", ".join(job.settings.selection.walks)
        raise InputError(f"run.methods names none that walks a graph; add one of {known}")
    job.check()
    return [
        export(job, method, target, seed)
        for seed in job.settings.seeds
        for method in walks
        for target in job.data.targets
    ]


def export(job: Job, method: str, target: Target, seed: int) -> epath.Path:
    """Write all of one graph, and say where; returns `graphs/METHOD-SEED[/TARGET]/`."""
    pool = method_inputs.rows_of(job, job.data.pool, method, seed)
    core = directions(job, method, target, seed)
    records = job.data.pool.records
    nodes = Nodes([r.id for r in records], [r.source for r in records], core.weights_C)
    # An exact graph need not have as many rows as the setting, which it does not read, asks for.
    E = min(job.settings.selection.walks[method].graph.neighbours, len(records) - 1)
    graph = mixed_graph(pool, core.core_CP, E, nodes)
    folder = place(job, method, target, seed)
    write_npz(graph, folder / "graph.npz")
    left_out = [
        *_unless_too_large(folder, GRAPHML, lambda: write_graphml(graph, folder / GRAPHML[0])),
        *_unless_too_large(folder, ADJACENCY, lambda: write_adjacency(pool, folder)),
    ]
    summary = statistics.statistics(graph, pool)
    summary |= {
        "knowledge": core.summary(),
        "rows_not_finite": int((~pool.finite_N).sum()),
        "left_out": left_out,
    }
    page = graph_page.markdown(summary, f"{method}, {target.name}, seed {seed}")
    write_atomic(folder / "statistics.json", json.dumps(summary, indent=2) + "\n")
    write_atomic(folder / "statistics.md", page)
    plot_explained(core, folder / "explained_variance.png")
    histograms = summary["pairs"]["histogram"], summary["stored"]["histogram"]
    plot_similarities(*histograms, folder / "similarities.png")
    print(f"graph {method} {target.name} seed {seed}: {folder}", flush=True)
    return folder


def directions(job: Job, method: str, target: Target, seed: int) -> Core:
    """The core directions that the method's walk follows."""
    found = method_inputs.gather(job, method, target, seed)
    return core_of(job.settings.selection.walks[method].knowledge, found)


def place(job: Job, method: str, target: Target, seed: int) -> epath.Path:
    """Make the folder of a graph, which has one for each target only where there are several."""
    folder = job.stages.workdir / "graphs" / f"{method}-{seed}"
    folder = folder / target.name if len(job.data.targets) > 1 else folder
    make_folder(folder)
    return folder


def _unless_too_large(
    folder: epath.Path, names: Sequence[str], write: Callable[[], None]
) -> list[str]:
    """Nothing, or why some files were left out, which is printed: the others are worth having."""
    try:
        write()
    except TooLarge as error:
        print(f"left out: {error}", flush=True)
        for name in names:  # of an earlier, smaller graph
            (folder / name).unlink(missing_ok=True)
        return [str(error)]
    return []
