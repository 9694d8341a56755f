"""The gradient pass on several devices against one: its speed, and what they exchange."""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.bench.models import Subject, compiled, features_of, full_batch
from experiments.bench.timing import alternate, paired_ratio
from g2is_jax.features.projection import ProjectionConfig
from g2is_jax.runs.mesh import data_mesh

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")


def against_one_device(
    subject: Subject, projection: ProjectionConfig, batch: int, tokens: int, repeats: int
) -> dict:
    """Times a microbatch on each device at once, against as many calls of one device."""
    count = len(jax.devices())
    rows = full_batch(subject, batch * count, tokens)

    def side(mesh: Any, parts: int) -> tuple[Callable, str]:
        function, inputs = features_of(subject, "rms", projection, mesh)
        batches = list(zip(*(np.split(np.asarray(x), parts) for x in rows), strict=True))
        text = compiled(function, inputs, batches[0]).as_text()

        def features() -> Any:
            found = [jax.device_get(function(inputs, *batch)) for batch in batches]
            rows_BP = np.concatenate([part.features_KBP[0] for part in found])
            return rows_BP / np.linalg.norm(rows_BP, axis=1, keepdims=True)

        return features, text

    (single, _), (many, text) = side(None, count), side(data_mesh(), 1)
    difference = np.abs(single() - many()).max()
    seconds = alternate({"one": single, "many": many}, repeats)
    return {
        "devices": count,
        "seconds": seconds,
        "ratio": paired_ratio(seconds["one"], seconds["many"]),
        "collectives": count_collectives(text),
        "largest_difference": float(difference),
    }


def count_collectives(program: str) -> int:
    """Counts the operations of a compiled program's text by which devices exchange data."""
    names = "|".join(COLLECTIVES)
    return len(re.findall(rf"= \S.* (?:{names})(?:-start)?\(", program))
