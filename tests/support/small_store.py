"""A store of ten rows in three chunks, and what is written to it."""

import numpy as np

from g2is_jax.features.store import StoreConfig, StoreWriter

WIDTH = 300
ROWS = np.array([2, 3, 5, 7, 11, 13, 17, 19, 23, 29])  # the file has rows without a feature
CHUNKS = [np.array([4, 0, 9]), np.array([1, 8, 3, 6]), np.array([7, 2, 5])]  # by length, say
OTHER_CHUNKS = [np.array([4, 0, 9, 1, 8]), np.array([3, 6, 7, 2, 5])]


def features() -> np.ndarray:
    """Rows of very different lengths, one of them zero."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(len(ROWS), WIDTH)) * 10.0 ** rng.uniform(-7, 3, size=(len(ROWS), 1))
    rows[6] = 0
    return rows.astype(np.float32)


def write(folder, chunks=CHUNKS, dtype="float32", stop_after=None, features_NP=None) -> list[int]:
    """Write what is not there, at most `stop_after` chunks; returns which were written."""
    features_NP = features() if features_NP is None else features_NP
    with StoreWriter(folder, ROWS, StoreConfig(dtype, chunk_rows=3)) as writer:
        missing = [i for i, done in enumerate(writer.start(chunks)) if not done][:stop_after]
        for index in missing:
            rows = chunks[index]
            writer.write(index, features_NP[rows], 0.5 + rows.astype(np.float32), 100 + rows)
    return missing


def contents(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}
