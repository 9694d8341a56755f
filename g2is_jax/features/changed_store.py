"""A store made of another one, row by row."""

from collections.abc import Callable

import numpy as np
from etils import epath

from g2is_jax.features.store import Store, StoreConfig, StoreWriter


def write_changed(
    folder: epath.Path,
    store: Store,
    config: StoreConfig,
    change: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Writes the rows of a store, changed at the length they had before they were normalised.

    change: takes [B, P] float32 and returns another [B, P']. Chunks that are there already are
    left, so a killed write goes on.
    """
    with StoreWriter(folder, store.rows_N, config) as writer:
        done = writer.start(store.positions)
        for index, (positions_B, rows_BP) in enumerate(store.blocks()):
            if done[index]:
                continue
            changed_BP = change(rows_BP * store.norms_N[positions_B, None])
            changed_BP[~store.finite_N[positions_B]] = np.nan  # stays a row that is marked
            tokens_B = store.tokens_N[positions_B]
            writer.write(index, changed_BP, store.gradient_norms_N[positions_B], tokens_B)
