"""Learning curves: loss of the fine-tunes, on their own rows and on validation rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from g2is_jax.evaluation.compare import SUBJECT
from g2is_jax.report.page.blocks import Picture, Pictures, Section, Text
from g2is_jax.report.page.svg import colours, draw, legend_below

STEPS_A_POINT = 10  # that are averaged, or those of an epoch where it has fewer
MOST_POINTS = 60  # of a line


@dataclass(frozen=True)
class Curve:
    """Holds the learning curve of a fine-tune.

    losses, tokens: mean loss and tokens of each step. validation: (epoch, loss) on validation rows,
    where that was measured.
    """

    method: str
    target: str
    epochs: int
    losses: Sequence[float]
    tokens: Sequence[int]
    validation: Sequence[tuple[int, float]]


def section(curves: Sequence[Curve]) -> Section | None:
    """Makes a drawing for each target, or two; None without a fine-tune."""
    if not curves:
        return None
    methods = dict.fromkeys(curve.method for curve in curves)
    style = colours(sorted(methods, key=lambda method: method != SUBJECT))
    pictures = []
    for target in dict.fromkeys(curve.target for curve in curves):
        own = [curve for curve in curves if curve.target == target]
        training = [(curve, *thinned(curve)) for curve in own]
        caption = f"Fine-tune for {target}: training loss of each method, a line a seed."
        pictures.append(_drawn(training, style, "training loss, nats a token", caption))
        measured = [(c, *np.array(c.validation, float).T) for c in own if c.validation]
        if measured:
            caption = f"Fine-tune for {target}: loss on its validation rows, a line a seed."
            pictures.append(_drawn(measured, style, "validation loss, nats", caption))
    note = (
        "Each method trains on its own rows, so a lower training loss says that its rows are "
        "easier, not that they are better. Each point is the mean over several steps."
    )
    return Section("Learning curves", [Text(note), Pictures(pictures)])


def thinned(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Averages groups of steps: epochs done at the middle of each, and mean loss of a token."""
    steps = len(curve.losses)
    groups = min(max(steps // STEPS_A_POINT, curve.epochs), MOST_POINTS, steps)
    losses, tokens = np.asarray(curve.losses, float), np.asarray(curve.tokens, float)
    parts = np.array_split(np.arange(steps), groups)
    middles = [curve.epochs * (part.mean() + 0.5) / steps for part in parts]
    means = [np.average(losses[part], weights=tokens[part]) for part in parts]
    return np.array(middles), np.array(means)


def _drawn(lines: Sequence[tuple], style: dict, name: str, caption: str) -> Picture:
    """Draws lines, each a curve with its epochs and its losses."""

    def paint(axis) -> None:
        named = set()
        for curve, epochs, losses in lines:
            colour, dashes = style[curve.method]
            label = curve.method if curve.method not in named else None
            named.add(curve.method)
            axis.plot(epochs, losses, color=colour, ls=dashes, lw=1, alpha=0.85, label=label)
        axis.set_xlabel("epoch")
        axis.set_ylabel(name)
        axis.grid(alpha=0.25)
        legend_below(axis)

    rows = -(-len({curve.method for curve, *_ in lines}) // 3)
    return draw(paint, caption, 2.6 + 0.18 * rows)
