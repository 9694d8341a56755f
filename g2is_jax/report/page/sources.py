"""The composition of the selections by source, against the pool's, and their overlap."""

from collections.abc import Sequence

import numpy as np

from g2is_jax.report.composition import (
    OTHERS,
    SHARED,
    STABLE,
    columns,
    composition_table,
    folded,
    overlap_table,
    stability_table,
)
from g2is_jax.report.page.blocks import Block, Picture, Pictures, Section, Text
from g2is_jax.report.page.svg import GREY, colours, draw, legend_below


def section(composition: dict) -> Section | None:
    """Shows for each target what composition.json holds; None without a selection."""
    if not composition["targets"]:
        return None
    parts = []
    for target, found in composition["targets"].items():
        note = "Share of the rows by source, mean over seeds; × is against the share in the pool."
        blocks: list[Block] = [
            Text(note),
            Pictures([_bars(target, composition["pool"], found["methods"])]),
            composition_table(composition["pool"], found["methods"]),
        ]
        if len(found["methods"]) > 1:
            blocks += [Text(SHARED), overlap_table(found)]
        if any(value is not None for value in found["stability"]):
            blocks += [Text(STABLE), stability_table(found)]
        parts.append(Section(target, blocks))
    return Section("Composition and overlap", parts)


def _bars(target: str, pool: dict, methods: Sequence[dict]) -> Picture:
    """Draws a bar for each method, the pool's on top, cut by source."""
    sources = columns(pool, methods)
    names = ["(the pool)", *(of["method"] for of in methods)]
    shares = np.array([folded(of["shares"], sources) for of in (pool, *methods)])
    style = colours(sources)
    hatches = {"solid": "", "dashed": "////", "dotted": "...."}

    def paint(axis) -> None:
        left, places = np.zeros(len(names)), range(len(names))
        for source, part in zip([*sources, OTHERS], shares.T, strict=False):
            colour, kind = style.get(source, (GREY, "solid"))
            look = {"color": colour, "hatch": hatches[kind], "height": 0.7}
            axis.barh(places, part, left=left, label=source, **look)
            left += part
        axis.set_yticks(places, names)
        axis.invert_yaxis()
        axis.set_xlim(0, 1)
        axis.set_xlabel("share of rows")
        legend_below(axis, 2)

    caption = f"Rows for {target} by source: the pool, then each method."
    return draw(paint, caption, 1.0 + 0.22 * len(names) + 0.17 * -(-shares.shape[1] // 2))
