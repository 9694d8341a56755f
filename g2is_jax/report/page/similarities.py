"""Similarities of the pool's rows with each other and with the target, and their conflicts."""

from collections.abc import Sequence

import numpy as np

from g2is_jax.report.page.blocks import Picture, Pictures, Section, Table, Text
from g2is_jax.report.page.finished_walk import Walk
from g2is_jax.report.page.svg import FIRST, INK, SECOND, draw, legend_below

BINS = 50
LEFT_OUT = 0.002  # of the cosines, at each end of a drawing: they stand in its last bins


def section(walks: Sequence[Walk]) -> Section | None:
    """Makes a line and a drawing for each walk; None without a walk."""
    walks = [walk for walk in walks if len(walk.sample_SP) > 1]
    if not walks:
        return None
    of_walks = [cosines(walk) for walk in walks]
    lines = [
        [walk.title, f"{len(walk.sample_SP):,}", *_summary(pairs), *_summary(to_target)]
        for walk, (pairs, to_target) in zip(walks, of_walks, strict=True)
    ]
    head = ["walk", "rows sampled"]
    for which in ("pool with pool", "pool with target"):
        head += [f"{which}: pairs", "mean cosine", "conflicts"]
    note = "Cosines of the features that the walk saw. Two rows conflict where theirs is below 0."
    drawn = [_drawn(walk, *of) for walk, of in zip(walks, of_walks, strict=True)]
    return Section("Similarities and conflicts", [Text(note), Table(head, lines), Pictures(drawn)])


def cosines(walk: Walk) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cosines of all pairs of sampled rows, and of these with each validation row."""
    upper = np.triu_indices(len(walk.sample_SP), 1)
    pairs = (walk.sample_SP @ walk.sample_SP.T)[upper]
    return pairs, (walk.sample_SP @ walk.validation_MP.T).ravel()


def _summary(values: np.ndarray) -> list[str]:
    return [f"{len(values):,}", f"{values.mean():+.3f}", f"{(values < 0).mean():.1%}"]


def _drawn(walk: Walk, pairs: np.ndarray, to_target: np.ndarray) -> Picture:
    shares = [f"{(values < 0).mean():.1%}" for values in (pairs, to_target)]

    ends = np.quantile(np.concatenate([pairs, to_target]), (LEFT_OUT, 1 - LEFT_OUT))
    low, high = min(-0.05, ends[0]), max(0.05, ends[1])

    def paint(axis) -> None:
        for values, name, colour in (
            (pairs, "pool with pool", FIRST),
            (to_target, "pool with target", SECOND),
        ):
            counts, edges = np.histogram(np.clip(values, low, high), BINS, (low, high))
            look = {"color": colour, "alpha": 0.45, "fill": True, "label": name}
            axis.stairs(counts / max(counts.sum(), 1), edges, **look)
        axis.axvline(0, color=INK, lw=0.8)
        axis.set_xlabel("cosine")
        axis.set_ylabel(f"share of pairs, in bins of {(high - low) / BINS:.2g}")
        legend_below(axis)

    caption = (
        f"{walk.title}: cosines; {shares[0]} of the pairs in the pool and {shares[1]} of those "
        "with validation rows are conflicts. The outermost bins hold all beyond them."
    )
    return draw(paint, caption)
