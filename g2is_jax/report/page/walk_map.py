"""A map of each walk: the rows it chose among the pool and the target, in two dimensions."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from g2is_jax.report.page.blocks import Picture, Pictures, Section, Text
from g2is_jax.report.page.finished_walk import Walk
from g2is_jax.report.page.svg import ACCENT, COLOURS, GREY, INK, draw, legend_below
from g2is_jax.selection.core import principal_directions

MOST_COLOURED, MOST_NUMBERED, MOST_POINTS = 7, 8, 400


def section(walks: Sequence[Walk]) -> Section | None:
    """Makes a drawing for each walk; None without a walk."""
    walks = [walk for walk in walks if walk.picks]
    if not walks:
        return None
    note = (
        "The plane in which the chosen rows and the validation rows differ most (PCA of both), "
        "and the pool's rows on it. Rows that lie apart are different; rows that lie together may "
        "still differ in what the plane does not show. Numbers are the order of the first rows."
    )
    return Section("Map of the walk", [Text(note), Pictures([_drawn(walk) for walk in walks])])


def plane(rows_NP: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the two unit directions of largest variance, the mean, and their shares of it."""
    mean_P = rows_NP.mean(axis=0, dtype=np.float64)
    variances_C, directions_CP = principal_directions(rows_NP - mean_P)
    found = min(2, len(directions_CP))
    plane_2P, shares_2 = np.zeros((2, len(mean_P))), np.zeros(2)
    if variances_C.sum() > 0:
        plane_2P[:found] = directions_CP[:found]
        shares_2[:found] = variances_C[:found] / variances_C.sum()
    return plane_2P, mean_P, shares_2


def _drawn(walk: Walk) -> Picture:
    picks = walk.picks[:MOST_POINTS]
    groups = [walk.chosen_KP[:MOST_POINTS], walk.validation_MP, walk.sample_SP[:MOST_POINTS]]
    plane_2P, mean_P, shares_2 = plane(np.concatenate(groups[:2]))
    chosen_K2, validation_M2, sample_S2 = ((rows - mean_P) @ plane_2P.T for rows in groups)
    components_K = np.array([pick["component"] for pick in picks])
    largest = [c for c, _ in Counter(components_K.tolist()).most_common(MOST_COLOURED)]

    def paint(axis) -> None:
        axis.scatter(*sample_S2.T, s=5, color=GREY, alpha=0.4, lw=0, label="pool (sample)")
        axis.scatter(
            *validation_M2.T, s=18, marker="+", color=INK, lw=0.9, alpha=0.7, label="validation"
        )
        for component, colour in zip(largest, COLOURS[1:], strict=False):
            own_K2 = chosen_K2[components_K == component]
            axis.scatter(*own_K2.T, s=22, color=colour, lw=0, label=f"direction {component}")
        others_K2 = chosen_K2[~np.isin(components_K, largest)]
        if len(others_K2):
            look = {"s": 18, "facecolors": "none", "edgecolors": ACCENT, "lw": 0.9}
            axis.scatter(*others_K2.T, **look, label="other directions")
        for number, place_2 in enumerate(chosen_K2[:MOST_NUMBERED], 1):
            axis.annotate(
                str(number), place_2, (3, 3), textcoords="offset points", fontsize=7.5, color=INK
            )
        axis.set_xlabel(f"first direction ({shares_2[0]:.0%} of the variance)")
        axis.set_ylabel(f"second ({shares_2[1]:.0%})")
        legend_below(axis)

    caption = (
        f"{walk.title}: the first {len(picks)} of {len(walk.picks)} chosen rows, coloured by the "
        "direction they were chosen for."
    )
    return draw(paint, caption, 4.2)
