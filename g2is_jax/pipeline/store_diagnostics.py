"""The diagnostics of a finished store of features, written beside it."""

import dataclasses
import json

from etils import epath

from g2is_jax.features.diagnostics import diagnose, lines
from g2is_jax.features.store import open_store
from g2is_jax.pipeline.datasets import Dataset
from g2is_jax.runs.storage import write_atomic


def write_diagnostics(
    folder: epath.Path, dataset: Dataset, momentum: float | None, b1: float
) -> None:
    """Write `diagnostics.json` into a store of the rows of a dataset, and print them.

    momentum: |m|, where the kind of feature has a momentum term, which decays by b1.
    """
    found = diagnose(open_store(folder), dataset.ids, dataset.sources, momentum, b1)
    written = json.dumps(dataclasses.asdict(found), indent=2) + "\n"
    write_atomic(folder / "diagnostics.json", written)
    print(lines(found), flush=True)
