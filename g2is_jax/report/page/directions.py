"""The core directions: how much of the validation rows' variance each of them explains."""

from collections.abc import Sequence

import numpy as np

from g2is_jax.report.page.blocks import Picture, Pictures, Section, Text
from g2is_jax.report.page.finished_walk import Walk
from g2is_jax.report.page.svg import FIRST, GREY, SECOND, draw, legend_below

MOST_SHOWN = 60  # components in the drawing; what comes after is small


def section(walks: Sequence[Walk]) -> Section | None:
    """Makes a sentence and a drawing for each walk; None without a walk."""
    if not walks:
        return None
    summaries = [Text(_summary(walk)) for walk in walks]
    return Section("Core directions", [*summaries, Pictures([_drawn(walk) for walk in walks])])


def _summary(walk: Walk) -> str:
    found = walk.core.summary()
    of_walk = f"{found['directions']} directions"
    if found["directions"] != found["components"]:
        of_walk += ", one a validation row, each what these components explain of it"
    return (
        f"{walk.title}: {found['components']} of {found['components_with_variance']} components "
        f"are kept; they explain {found['explained']:.1%} of the variance of the validation "
        f"rows, whose effective rank is {found['effective_rank']:.1f}. The walk follows {of_walk}."
    )


def _drawn(walk: Walk) -> Picture:
    explained_C, kept = walk.core.explained_C[:MOST_SHOWN], walk.core.components
    numbers_C = np.arange(1, len(explained_C) + 1)

    def paint(axis) -> None:
        few_C, rest_C = numbers_C[:kept], numbers_C[kept:]
        axis.bar(few_C, explained_C[:kept], color=FIRST, label=f"kept ({kept})")
        axis.bar(rest_C, explained_C[kept:], color=GREY, label="left out")
        axis.plot(numbers_C, np.cumsum(explained_C), color=SECOND, lw=1.5, label="running sum")
        axis.set_ylim(0, 1.02)
        axis.set_xlabel("component")
        axis.set_ylabel("share of variance")
        axis.grid(axis="y", alpha=0.25)
        legend_below(axis)

    caption = f"{walk.title}: explained variance of each component, and its running sum."
    return draw(paint, caption)
