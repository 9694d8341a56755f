"""Writes the mixed graph of each walk of a job into `graphs/`, from the walk's own features."""

import json
from collections.abc import Callable, Sequence

from etils import epath
from ml_collections import ConfigDict

from g2is_jax.graph import statistics
from g2is_jax.graph.mixed_graph import (
    ADJACENCY,
    Nodes,
    TooLarge,
    mixed_graph,
    write_adjacency,
    write_graphml,
    write_npz,
)
from g2is_jax.pipeline import method_inputs
from g2is_jax.pipeline.cases import cases, label, shown_at
from g2is_jax.pipeline.datasets import Target
from g2is_jax.pipeline.job import Job, open_job
from g2is_jax.report import graph_page
from g2is_jax.report.figures import plot_explained, plot_similarities
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.processes import alone, is_first, wait_for_all
from g2is_jax.runs.storage import make_folder, write_atomic
from g2is_jax.selection.core import Core
from g2is_jax.selection.methods import SECTIONS, core_of, walking

SHOWN = "graphs"  # folder of a work folder
GRAPHML = ("graph.graphml",)


def run(config: ConfigDict, workdir: epath.Path) -> list[epath.Path]:
    """The graph of each walk among the methods, for each target and seed; returns the folders.

    Features that are not there yet are made first, by all processes of a run.
    """
    job = open_job(config, workdir, measures=False)
    walks = walking(job.settings.selection.methods)
    if not walks:
        known = ", ".join(SECTIONS)
        raise InputError(f"run.methods names none that walks a graph; add one of {known}")
    job.check()
    walked = cases(job, walks)
    for case in walked:
        method_inputs.stages(job, *case)
    if is_first():
        with alone():
            for case in walked:
                export(job, *case)
    wait_for_all("graphs written")
    return [shown_at(job, SHOWN, *case) for case in walked]


def export(job: Job, method: str, target: Target, seed: int) -> None:
    """Write all of one graph to `graphs/METHOD-SEED[/TARGET]/`, and print that."""
    pool = method_inputs.rows_of(job, job.data.pool, method, seed)
    core = directions(job, method, target, seed)
    nodes = Nodes(job.data.pool.ids, job.data.pool.sources, core.weights_C)
    # An exact graph need not have as many rows as the setting, which it does not read, asks for.
    E = min(job.settings.selection.walks[method].graph.neighbours, len(nodes.ids_N) - 1)
    graph = mixed_graph(pool, core.core_CP, E, nodes)
    folder = shown_at(job, SHOWN, method, target, seed)
    make_folder(folder)
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
    print(f"graph {label(method, target, seed)}: {folder}", flush=True)


def directions(job: Job, method: str, target: Target, seed: int) -> Core:
    """The core directions that the method's walk follows."""
    found = method_inputs.gather(job, method, target, seed)
    return core_of(job.settings.selection.walks[method].knowledge, found)


def _unless_too_large(
    folder: epath.Path, names: Sequence[str], write: Callable[[], None]
) -> list[str]:
    """Write some files, unless they are too large: then returns the reason, which is printed.

    The other files are worth having.
    """
    try:
        write()
    except TooLarge as error:
        print(f"left out: {error}", flush=True)
        for name in names:  # of an earlier, smaller graph
            (folder / name).unlink(missing_ok=True)
        return [str(error)]
    return []
