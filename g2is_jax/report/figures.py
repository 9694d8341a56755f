"""Figures beside an exported graph: the spectrum of the core, and the similarities."""

import io
from collections.abc import Sequence

import numpy as np
from etils import epath

from g2is_jax.runs.storage import write_atomic
from g2is_jax.selection.core import Core


def plot_explained(core: Core, file: epath.Path) -> None:
    """Plots the explained variance of each component and its running sum; those kept are marked."""
    from matplotlib.figure import Figure

    kept, explained_C = core.components, core.explained_C
    numbers_C = np.arange(1, len(explained_C) + 1)
    summary = core.summary()
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    each, running = figure.subplots(1, 2)
    each.bar(numbers_C[:kept], explained_C[:kept], width=1.0, label=f"{kept} kept")
    each.bar(numbers_C[kept:], explained_C[kept:], width=1.0, color="0.8")
    each.set_title(f"effective rank {summary['effective_rank']:.1f}", fontsize=9)
    each.set_ylabel("explained variance")
    each.legend()
    running.plot(numbers_C, np.cumsum(explained_C))
    running.axvline(kept, linestyle="--", color="0.5")
    running.set_title(f"{kept} components explain {summary['explained']:.1%}", fontsize=9)
    running.set_ylim(0, 1.02)
    for axis in (each, running):
        axis.set_xlabel("component")
        axis.grid(axis="y", alpha=0.3)
    _save(figure, file)


def plot_similarities(pairs: Sequence[int], stored: Sequence[int], file: epath.Path) -> None:
    """Plots histograms, in equal bins from -1 to 1, of the cosines of pairs and of stored edges."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axis = figure.subplots()
    for counts, label in ((pairs, "pairs of rows"), (stored, "stored edges")):
        shares = np.asarray(counts) / max(sum(counts), 1)
        axis.stairs(shares, np.linspace(-1, 1, len(counts) + 1), fill=True, alpha=0.5, label=label)
    axis.axvline(0, color="0.5", linewidth=0.8)
    axis.set_xlabel("cosine")
    axis.set_ylabel("share")
    axis.legend()
    _save(figure, file)


def _save(figure, file: epath.Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomic(file, buffer.getvalue())
