"""Selection from feature matrices that were made elsewhere: no model, no checkpoint, no stages but
its selections.

Pool rows (N, P) and validation rows (M, P) are .npy, .safetensors or .pt files, or stores. Rows
that lie in a file of instructions are written out as well where that file is named.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from g2is_jax.data.files import FileRows, read_rows
from g2is_jax.data.records import Records
from g2is_jax.data.row_fields import read_columns
from g2is_jax.features.ordered import open_ordered
from g2is_jax.features.own_matrix import OwnMatrix, read_own
from g2is_jax.features.rows import Rows
from g2is_jax.features.store import Store, store_digest
from g2is_jax.pipeline.job_stages import Stages, has_stages
from g2is_jax.pipeline.ordered_stage import ordered_folder
from g2is_jax.pipeline.selection_files import LINES, WHY, show, write_lines, write_why
from g2is_jax.pipeline.selection_settings import read_selection
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.hashing import file_hash
from g2is_jax.runs.stages import run_stage
from g2is_jax.runs.workdir import claim_workdir
from g2is_jax.selection.budget import Limits, limits, without
from g2is_jax.selection.methods import (
    FEATURES,
    METHODS,
    MethodInputs,
    SelectionSettings,
    identity,
    needing,
)

ONLY_SEED = 0  # methods that look at features alone draw nothing


@dataclass(frozen=True)
class OwnFeatures:
    """The matrices, and the records of the pool's rows where its file was named."""

    pool: OwnMatrix
    validation: OwnMatrix
    records: Records | None

    @property
    def numbers_N(self) -> np.ndarray:
        """The number of each pool row in its file."""
        known_N = self.pool.numbers_N
        return np.arange(len(self.pool.rows)) if known_N is None else known_N

    def known(self, row: int) -> dict:
        """The fields that identify a pool row beside the reasons for it."""
        if self.records is None:
            return {"row": int(self.numbers_N[row])}
        return self.records.known(row)


def run(
    config: ConfigDict,
    workdir: epath.Path,
    train_features: epath.Path,
    validation_features: epath.Path,
    pool: epath.Path | None = None,
) -> list[epath.Path]:
    """Choose by each method of the config; returns the folders of `selection.jsonl`.

    That is `workdir` for one method, and `workdir/METHOD` for several. With `pool` the chosen lines
    of that file are in `selected.jsonl` beside it.
    """
    choosing = read_selection(config)
    _check_methods(choosing.methods)
    rows = _pool_rows(config, pool) if pool else None
    replace = config.run.replace or not has_stages(workdir)
    rows_of = functools.partial(_rows_of, workdir, choosing.memory)
    own = _read(train_features, validation_features, rows, rows_of)
    allowed = _limits(choosing, own, pool)
    matrices = {"train_features": train_features, "validation_features": validation_features}
    digests = {
        name: store_digest(source) if source.is_dir() else file_hash(source)
        for name, source in matrices.items()
    }
    digests |= {"pool": rows.digest} if rows else {}
    free = ("run.replace", "selection.memory")
    claim_workdir(workdir, {**config.to_dict(), "own": digests}, free, replace)
    several = len(choosing.methods) > 1
    _clear(workdir, set(METHODS) - set(choosing.methods) if several else set(METHODS))
    if several:
        _clear(workdir, {""})
    places = []
    for method in choosing.methods:
        build = functools.partial(_choose, method, choosing, own, allowed)
        settings = identity(method, choosing, ONLY_SEED)
        folder = run_stage(workdir, "selection", settings, digests, build)
        places.append(workdir / method if several else workdir)
        show(folder, places[-1])
        print(f"selection {method}: {places[-1] / WHY}", flush=True)
    return places


def _clear(workdir: epath.Path, methods: set[str]) -> None:
    """Remove what an earlier command showed of these methods."""
    for method, name in itertools.product(methods, (WHY, LINES)):
        (workdir / method / name).unlink(missing_ok=True)


def _choose(
    method: str, choosing: SelectionSettings, own: OwnFeatures, allowed: Limits, folder: epath.Path
) -> dict:
    """Write the selection of one method."""
    choose = METHODS[method].choose
    assert choose is not None, f"{method} chooses no row"
    selection = choose(_method_inputs(choosing, own, allowed))
    write_why(folder, selection, own.known)
    if own.records is not None:
        write_lines(folder, selection, own.records.lines)
    return {"rows": len(selection.picks), **selection.summary}


def _method_inputs(choosing: SelectionSettings, own: OwnFeatures, allowed: Limits) -> MethodInputs:
    """The matrices as a method takes them; validation rows are of one subtask, as nothing says
    otherwise."""
    pool, validation = own.pool.rows, own.validation.rows
    validation = validation.take(validation.finite_N)
    return MethodInputs(
        settings=choosing,
        limits=without(allowed, ~pool.finite_N),
        seed=ONLY_SEED,
        tokens_N=allowed.costs_N,
        pool=pool,
        validation=validation,
        subtasks_M=np.zeros(len(validation), int),
    )


def _check_methods(methods: Sequence[str]) -> None:
    able = needing(methods, FEATURES)
    others = [method for method in methods if method not in able]
    if others:
        every = needing(list(METHODS), FEATURES)
        raise InputError(
            f"run.methods: {', '.join(others)} cannot choose by features alone; with "
            f"--train_features set --config.run.methods={','.join(able or ['g2is'])}, or others "
            f"of {', '.join(every)}"
        )


def _pool_rows(config: ConfigDict, pool: epath.Path) -> FileRows:
    """The good rows of the pool's file; how it was read is printed."""
    rows = read_rows(pool, config.data.bad_rows, columns=read_columns(config.data.columns))
    print("\n".join(rows.summary()), flush=True)
    return rows


def _rows_of(workdir: epath.Path, memory: str, store: Store) -> Rows:
    """The pool rows of a store, in memory or left on disk."""
    digests = {"features": store_digest(store.folder)}
    stages = Stages(workdir, shows=False)
    folder = ordered_folder(stages, memory, [store], (1.0,), digests)
    return store.read() if folder is None else open_ordered(folder, [store])


def _read(
    train_features: epath.Path,
    validation_features: epath.Path,
    pool: FileRows | None,
    rows_of: Callable[[Store], Rows],
) -> OwnFeatures:
    """The matrices and records, once their shapes and counts are known to agree."""
    train, validation = read_own(train_features, rows_of), read_own(validation_features)
    if train.rows.shape[1] != validation.rows.shape[1]:
        raise InputError(
            f"{train_features} is of shape {train.rows.shape}, {validation_features} of "
            f"{validation.rows.shape}; both must have the same width: make them with the "
            "same projection"
        )
    if not validation.rows.finite_N.any():
        raise InputError(f"{validation_features}: no row is finite; make the features again")
    records = _records(train, pool) if pool else None
    return OwnFeatures(train, validation, records)


def _records(train: OwnMatrix, pool: FileRows) -> Records:
    """The record of each feature row."""
    records = pool.records
    rows, numbers_N = len(train.rows), train.numbers_N
    if numbers_N is None:
        if rows != len(records):
            bad = f" and {len(pool.bad)} bad ones" if len(pool.bad) else ""
            raise InputError(
                f"{train.source} has {rows} rows, {pool.path} has {len(records)}{bad}; give one "
                "feature row for each row of the pool that is not bad, in its order"
            )
        return records
    places = {number: place for place, number in enumerate(records.numbers_N.tolist())}
    absent = [number for number in numbers_N.tolist() if number not in places]
    if absent:
        raise InputError(
            f"{train.source} numbers its rows from {numbers_N.min()} to {numbers_N.max()}, "
            f"{pool.path} has {len(records)} good ones and no row {absent[0]} among them; give the "
            "pool that the features were made of"
        )
    return records.take([places[number] for number in numbers_N.tolist()])


def _limits(choosing: SelectionSettings, own: OwnFeatures, pool: epath.Path | None) -> Limits:
    """The budget and caps, where what they count is known."""
    budget, rows = choosing.budget, len(own.pool.rows)
    if budget.source_cap < 1 and pool is None:
        raise InputError(
            f"selection.source_cap = {budget.source_cap}: the sources are not known; give the "
            "pool's file by --pool, or set selection.source_cap to 1"
        )
    tokens_N = own.pool.tokens_N
    if budget.unit == "tokens" and (tokens_N is None or (tokens_N < 1).any()):
        raise InputError(
            f"selection.unit = tokens: {own.pool.source} does not say how many supervised "
            "tokens each row has; give a store, or a .safetensors file with `tokens`, or set "
            "selection.unit to rows or fraction"
        )
    known_N = np.ones(rows, int) if tokens_N is None else tokens_N
    sources = [""] * rows if own.records is None else own.records.sources_N.tolist()
    return limits(budget, known_N, sources)
