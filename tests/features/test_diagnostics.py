"""Diagnostics of a store, against the same computed from its whole matrix, pair by pair."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from etils import epath

from g2is_jax.features import diagnostics
from g2is_jax.features.diagnostics import diagnose, lines
from g2is_jax.features.store import Store, StoreConfig, StoreWriter, open_store

ROWS, WIDTH, B1, MOMENTUM_NORM = 23, 7, 0.8, 0.3
SOURCES = ("flan", "cot", "dolly")
STORED = ("float32", "bfloat16", "int8")


def random_rows(rows: int = ROWS, shared: float = 0.5) -> np.ndarray:
    """Rows of very different lengths, with a shared part beside their noise."""
    rng = np.random.default_rng(0)
    features_NP = shared * rng.normal(size=WIDTH) + rng.normal(size=(rows, WIDTH))
    return features_NP * 10 ** rng.uniform(-3, 3, size=(rows, 1))


def norms_of(rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(1).lognormal(size=rows)


def stored(folder, features_NP, gradient_norms_N=None, dtype: str = "float32") -> Store:
    """A store of the rows, written in chunks of 4 in an order of their own."""
    rows = len(features_NP)
    if gradient_norms_N is None:
        gradient_norms_N = norms_of(rows)
    order = np.random.default_rng(2).permutation(rows)
    chunks = np.split(order, range(4, rows, 4))
    folder = epath.Path(folder) / "store"
    with StoreWriter(folder, 3 * np.arange(rows), StoreConfig(dtype, 4)) as writer:
        writer.start(chunks)
        for index, chunk in enumerate(chunks):
            writer.write(index, features_NP[chunk], gradient_norms_N[chunk], np.ones(len(chunk)))
    return open_store(folder)


def labels(rows: int) -> tuple[list[str], list[str]]:
    return [f"row-{i}" for i in range(rows)], [SOURCES[i % 3] for i in range(rows)]


def said_of(store: Store, momentum_norm: float | None = MOMENTUM_NORM):
    return diagnose(store, *labels(len(store.rows_N)), momentum_norm, B1)


def pairs_of(rows_NP) -> list[float]:
    """The cosine of each pair of rows that are not zero."""
    rows = [np.asarray(row, np.float64) for row in rows_NP if np.any(row)]
    return [
        float(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))
        for a, b in itertools.combinations(rows, 2)
    ]


def assert_quantiles(quantiles, values) -> None:
    assert quantiles.rows == len(values)
    found = dataclasses.astuple(quantiles)[1:]
    np.testing.assert_allclose(found, np.percentile(values, [5, 25, 50, 75, 95]), rtol=1e-6)


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_cosines_of_the_rows_as_they_are_stored(tmp_path, dtype, shared):
    store = stored(tmp_path, random_rows(shared=shared), dtype=dtype)
    cosines = pairs_of(store.read()[:])
    d = said_of(store)
    assert d.rows == ROWS
    assert d.pairs == ROWS * (ROWS - 1) / 2 == len(cosines)
    assert d.mean_cosine == pytest.approx(np.mean(cosines), abs=1e-12)
    assert d.negative_share == np.mean(np.array(cosines) < 0)
    assert 0 < d.negative_share < 1


def test_cosines_do_not_depend_on_how_the_products_are_cut(tmp_path, monkeypatch):
    store = stored(tmp_path, random_rows())
    whole = said_of(store)
    for rows in (1, 5, ROWS):
        monkeypatch.setattr(diagnostics, "PRODUCT_ROWS", rows)
        assert said_of(store) == whole


def test_gradient_norms_by_source(tmp_path):
    store = stored(tmp_path, random_rows())
    d = said_of(store)
    norms, sources = norms_of(), np.array(labels(ROWS)[1])
    assert_quantiles(d.gradient_norms, norms)
    assert list(d.norms_by_source) == sorted(SOURCES)
    for source, quantiles in d.norms_by_source.items():
        assert_quantiles(quantiles, norms[sources == source])


def test_odd_rows_are_counted_and_named_and_take_no_part(tmp_path):
    """Rows 3, 5 and 22 are zero; 4, 7 and 8 are not finite, the last in its gradient alone."""
    features_NP, norms_N = random_rows(), norms_of()
    features_NP[[3, 5, 22]] = 0
    features_NP[4], features_NP[7, 2], norms_N[8] = np.nan, np.inf, np.nan
    norms_N[5] = 0  # a row without a gradient has a norm, but no share of momentum
    store = stored(tmp_path, features_NP, norms_N)
    d = said_of(store)
    assert (d.zero.count, d.zero.ids) == (3, ("row-3", "row-5", "row-22"))
    assert (d.non_finite.count, d.non_finite.ids) == (3, ("row-4", "row-7", "row-8"))
    cosines = pairs_of(np.delete(features_NP, [4, 7, 8], axis=0))
    assert d.pairs == 17 * 16 / 2 == len(cosines)
    assert d.mean_cosine == pytest.approx(np.mean(cosines), abs=1e-6)
    assert d.negative_share == np.mean(np.array(cosines) < 0)
    finite = np.delete(np.arange(ROWS), [4, 7, 8])
    assert_quantiles(d.gradient_norms, norms_N[finite])
    assert sum(quantiles.rows for quantiles in d.norms_by_source.values()) == 20
    assert_quantiles(d.momentum.share, MOMENTUM_NORM / norms_N[np.setdiff1d(finite, [5])])


def test_at_most_twenty_odd_rows_are_named(tmp_path):
    features_NP = random_rows(50)
    features_NP[::2] = np.nan
    d = said_of(stored(tmp_path, features_NP))
    assert d.non_finite.count == 25
    assert d.non_finite.ids == tuple(f"row-{i}" for i in range(0, 40, 2))


def test_a_row_that_vanishes_in_storage_makes_no_pair(tmp_path):
    """Its norm is not zero, and what is left of it is."""
    store = stored(tmp_path, random_rows())
    matrix = store.read()[:]
    matrix[6] = 0
    assert store.norms_N[6] > 0
    d = said_of(FromMemory(**vars(store), held=[(np.arange(ROWS), matrix)]))
    assert d.zero.ids == ("row-6",)
    cosines = pairs_of(matrix)
    assert d.mean_cosine == pytest.approx(np.mean(cosines), abs=1e-12)
    assert (d.pairs, d.negative_share) == (len(cosines), np.mean(np.array(cosines) < 0))


@dataclasses.dataclass(frozen=True)
class FromMemory(Store):
    """A store whose blocks are given."""

    held: list

    def blocks(self):
        return iter(self.held)


# Momentum.


def test_momentum_prediction_against_all_pairs(tmp_path):
    d = said_of(stored(tmp_path, random_rows()))
    share = MOMENTUM_NORM / norms_of()
    assert_quantiles(d.momentum.share, share)
    r = B1 / (1 - B1) * share
    cosine_NN = np.outer(r, r) / np.sqrt(np.outer(1 + r**2, 1 + r**2))
    of_pairs = cosine_NN[np.triu_indices(ROWS, 1)].mean()
    assert d.momentum.predicted_cosine == pytest.approx(of_pairs)
    median_row = np.argsort(r)[ROWS // 2]
    assert d.momentum.predicted_of_median == pytest.approx(cosine_NN[median_row].mean())


@pytest.mark.parametrize("momentum_norm", [0.1, 0.5, 5.0])
def test_momentum_prediction_comes_true_for_rows_of_momentum_and_noise(tmp_path, momentum_norm):
    """Gradients in many dimensions are nearly orthogonal, as the prediction supposes."""
    rng = np.random.default_rng(3)
    rows, width = 60, 20_000
    m, noise = rng.normal(size=width), rng.normal(size=(rows, width))
    norms_N = rng.lognormal(sigma=0.5, size=rows)
    gradients_NP = noise / np.linalg.norm(noise, axis=1, keepdims=True) * norms_N[:, None]
    features_NP = B1 * m / np.linalg.norm(m) * momentum_norm + (1 - B1) * gradients_NP
    d = said_of(stored(tmp_path, features_NP, norms_N), momentum_norm)
    assert d.momentum.predicted_cosine == pytest.approx(d.mean_cosine, abs=2e-3)
    assert d.momentum.predicted_of_median == pytest.approx(d.mean_cosine, abs=0.05)


def test_kinds_without_momentum_say_nothing_of_it(tmp_path):
    d = said_of(stored(tmp_path, random_rows(shared=20)), momentum_norm=None)
    assert d.momentum is None
    assert "momentum" not in lines(d)
    assert "|m|" not in lines(d)


# Few rows, many rows.


def test_one_row_has_no_pair(tmp_path):
    d = said_of(stored(tmp_path, random_rows(1)))
    assert (d.rows, d.pairs, d.mean_cosine, d.negative_share) == (1, 0, None, None)
    assert d.momentum.predicted_cosine is None
    assert_quantiles(d.gradient_norms, norms_of(1))
    assert lines(d).startswith("features: no two of 1 rows to compare\n")


def test_no_finite_row(tmp_path):
    d = said_of(stored(tmp_path, np.full((2, WIDTH), np.nan)))
    assert (d.non_finite.count, d.zero.count, d.pairs) == (2, 0, 0)
    assert (d.mean_cosine, d.momentum, d.gradient_norms, d.norms_by_source) == (None,) * 3 + ({},)
    json.dumps(dataclasses.asdict(d), allow_nan=False)
    assert len(lines(d).split("\n")) == 2


def test_pairs_of_many_rows_are_sampled_from_usable_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(diagnostics, "SAMPLE_ROWS", 9)
    features_NP = random_rows(40)
    features_NP[::3] = 0
    features_NP[1::9] = np.nan
    store = stored(tmp_path, features_NP)
    d = said_of(store)
    assert d.pairs == 9 * 8 / 2
    usable = np.setdiff1d(np.arange(40), [*range(0, 40, 3), *range(1, 40, 9)])
    sampled = diagnostics._sampled_rows(store)
    assert set(sampled) <= set(usable)
    assert len(set(sampled)) == 9
    assert sampled.tolist() != usable[:9].tolist()
    matrix = store.read()[:]
    assert d.negative_share == np.mean(np.array(pairs_of(matrix[sampled])) < 0)
    assert d.mean_cosine == pytest.approx(np.mean(pairs_of(matrix[usable])), abs=1e-12)  # of all


def test_the_sample_does_not_depend_on_the_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(diagnostics, "SAMPLE_ROWS", 9)
    store = stored(tmp_path, random_rows(40))
    first = said_of(store)
    matrix = store.read()[:]
    whole = FromMemory(**vars(store), held=[(np.arange(40), matrix)])
    second = said_of(whole)
    assert second.negative_share == first.negative_share
    assert second.mean_cosine == pytest.approx(first.mean_cosine, abs=1e-12)
    assert said_of(store) == first


def test_the_store_is_read_once_chunk_by_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(diagnostics, "SAMPLE_ROWS", 3)
    store, read = stored(tmp_path, random_rows()), []

    class Watched(FromMemory):
        def blocks(self):
            for positions_B, features_BP in store.blocks():
                read.append(len(positions_B))
                yield positions_B, features_BP

        def matrix(self):
            raise AssertionError("the whole matrix in memory")

        def read_into(self, features_NP):
            raise AssertionError("the whole matrix in memory")

    assert said_of(Watched(**vars(store), held=[])) == said_of(store)
    assert read == [4, 4, 4, 4, 4, 3]


def test_labels_of_other_rows_are_refused(tmp_path):
    store = stored(tmp_path, random_rows())
    ids, sources = labels(ROWS)
    for wrong in ((ids[1:], sources), (ids, sources[1:])):
        with pytest.raises(ValueError, match="23 rows"):
            diagnose(store, *wrong, None, B1)


# What is written and printed.


def test_plain_json(tmp_path):
    d = said_of(stored(tmp_path, random_rows()))
    plain = json.loads(json.dumps(dataclasses.asdict(d), allow_nan=False))
    assert plain["mean_cosine"] == d.mean_cosine
    assert plain["momentum"]["share"]["median"] == d.momentum.share.median
    assert plain["norms_by_source"]["cot"]["rows"] == 8


def test_lines(tmp_path):
    features_NP = random_rows(shared=100)
    features_NP[3] = 0
    features_NP[[4, 7]] = np.nan
    d = said_of(stored(tmp_path, features_NP))
    printed = lines(d).split("\n")
    assert d.negative_share == 0
    assert printed[0] == "features: mean cosine 1, 0 % of 190 pairs conflict"
    median, predicted = d.momentum.share.median, d.momentum.predicted_cosine
    assert printed[1] == (
        f"|m|/|g| median {median:.2g}, alone a mean cosine of {predicted:.2g}: "
        "the momentum term hides conflicts (kind rms has none)"
    )
    by_median = sorted(d.norms_by_source, key=lambda source: d.norms_by_source[source].median)
    assert printed[2].startswith(f"|g| median {d.gradient_norms.median:.3g}, 90 % from ")
    assert f"; median of {by_median[0]} " in printed[2]
    assert f", of {by_median[2]} " in printed[2]
    assert printed[3] == "not finite: 2 rows (row-4, row-7); zero: 1 row (row-3)"
    assert len(printed) == 4
    assert max(map(len, printed)) < 110


@pytest.mark.parametrize(("share", "hidden"), [(0.0, True), (0.0099, True), (0.01, False)])
def test_momentum_is_blamed_where_next_to_nothing_conflicts(tmp_path, share, hidden):
    d = said_of(stored(tmp_path, random_rows()))
    d = dataclasses.replace(d, negative_share=share)
    assert ("hides conflicts" in lines(d)) == hidden


def test_many_odd_rows_are_told_in_short(tmp_path):
    features_NP = random_rows()
    features_NP[:12] = np.nan
    last = lines(said_of(stored(tmp_path, features_NP))).split("\n")[-1]
    assert last == "not finite: 12 rows (row-0, row-1, row-2, row-3, row-4 and 7 more)"


def test_rows_that_are_no_gradients_tell_no_gradient_norm(tmp_path):
    d = said_of(stored(tmp_path, random_rows(), np.zeros(ROWS)), momentum_norm=None)
    assert len(lines(d).split("\n")) == 1
