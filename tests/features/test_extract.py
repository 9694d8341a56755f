"""A pass over many examples: each row under its own number, whatever batches it came in."""

import signal
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from g2is_jax.data.batches import Plan
from g2is_jax.features import extract as extraction
from g2is_jax.features.extract import (
    IN_FLIGHT,
    MOST_TOKENS,
    Microbatches,
    extract,
    fitting_tokens,
)
from g2is_jax.features.gradients import FeatureBatch, feature_function
from g2is_jax.features.store import StoreConfig, StoreWriter, open_store
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.stopping import Stopped, sigterm_heeded
from tests.support.random_llama import (
    CONFIG,
    NONE,
    directions,
    feature_rows,
    inputs_of,
    random_examples,
    random_model,
    unit,
    without_supervision,
)

KINDS = ("sgd", "adam")
UNUSED = CONFIG.vocab_size - 1  # a token of no example
PLANS = [
    Plan(np.array(rows), 2, width)
    for rows, width in (([4, 6], 8), ([3], 8), ([0, 7], 16), ([1, 2], 16), ([5], 16))
]


# Batches that shrink. The fake features of a row are its length and its first token.

LENGTHS = (3, 5, 2, 7, 1, 4, 6)


class Device:
    """Computes what fits, and keeps the shapes that it was asked for."""

    def __init__(self, room: float = np.inf, error: str = "RESOURCE_EXHAUSTED: out of memory"):
        self.room, self.error, self.asked = room, error, []

    def __call__(self, batch) -> FeatureBatch:
        self.asked.append(batch.tokens_BT.shape)
        return self.computed(batch)

    def computed(self, batch) -> FeatureBatch:
        if batch.tokens_BT.size > self.room:
            raise jax.errors.JaxRuntimeError(self.error)
        lengths_B = (batch.tokens_BT > 0).sum(axis=1)
        features_BP = np.stack([lengths_B, batch.tokens_BT[:, 0]], axis=1)
        return FeatureBatch(
            jnp.stack([features_BP, -features_BP]),
            jnp.asarray(lengths_B),
            jnp.asarray(batch.supervised_BT.sum(axis=1)),
        )


class Later:
    """An array that is not there yet: what is wrong with it shows where it is waited for."""

    def __init__(self, compute):
        self.compute = compute

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self.compute())


class LateDevice(Device):
    """Computes a batch when its features are waited for; notes what was dispatched and fetched."""

    def __init__(self, *how):
        super().__init__(*how)
        self.events: list[str] = []

    def __call__(self, batch) -> FeatureBatch:
        self.asked.append(batch.tokens_BT.shape)
        first = int(batch.rows_B[0])
        self.events.append(f"start {first}")

        def features():
            self.events.append(f"end {first}")
            return self.computed(batch).features_KBP

        norms_B, tokens_B = (Later(lambda i=i: self.computed(batch)[i]) for i in (1, 2))
        return FeatureBatch(Later(features), norms_B, tokens_B)


def row_examples():
    """Row i begins with token i + 1; no token is 0, as padding is."""
    encoded = random_examples(LENGTHS)
    for index, example in enumerate(encoded):
        example.tokens_T[:] = np.maximum(example.tokens_T, 1)
        example.tokens_T[0] = index + 1
    return encoded


def single_rows(count: int, width: int = 8) -> list[Plan]:
    return [Plan(np.array([row]), 1, width) for row in range(count)]


def run(device: Device, plans, multiple: int = 1) -> tuple[np.ndarray, Microbatches]:
    """Features (K, N, 2) of the plans' rows in order."""
    microbatches = Microbatches(device, row_examples(), multiple)
    found = list(microbatches.run(plans))
    for part in found:
        assert part.features_KBP.shape[1] == len(part.gradient_norms_B) == len(part.tokens_B)
    return np.concatenate([part.features_KBP for part in found], axis=1), microbatches


ROWS = [3, 0, 6, 2, 5]


def test_the_next_batch_is_dispatched_before_the_last_is_waited_for():
    device = LateDevice()
    run(device, single_rows(4))
    order = "start 0, start 1, end 0, start 2, end 1, start 3, end 2, end 3"
    assert ", ".join(device.events) == order


@pytest.mark.parametrize("room", [np.inf, 32, 16, 8])
@pytest.mark.parametrize("size", [5, 8], ids=["full", "with empty places"])
@pytest.mark.parametrize(("kind", "each"), [(Device, 1), (LateDevice, IN_FLIGHT)])
def test_halves_until_it_fits(room, size, kind, each):
    device = kind(room)
    features_KNP, microbatches = run(device, [Plan(np.array(ROWS), size, 8)])
    expected = [[LENGTHS[row], row + 1] for row in ROWS]
    np.testing.assert_array_equal(features_KNP, [expected, np.negative(expected)])
    refused = Counter(shape for shape in device.asked if np.prod(shape) > room)
    assert list(refused) == sorted(refused, reverse=True)
    assert max(refused.values(), default=0) <= each
    assert microbatches.tokens >= min(room, 8)


def test_the_smaller_size_is_remembered():
    """Batches of another width obey it too; smaller ones stay whole."""
    device = Device(room=20)
    run(device, [Plan(np.array([0, 1, 2, 4]), 4, 8)])
    assert device.asked == [(4, 8), (2, 8), (2, 8)]
    device = Device(room=20)
    plans = [Plan(np.array(rows), len(rows), width) for rows, width in (([0, 1, 2, 4], 8),) * 2]
    run(device, [*plans, Plan(np.array([0, 2, 4, 5]), 4, 4), Plan(np.array([5, 6, 0]), 3, 7)])
    assert device.asked[3:] == [(2, 8), (2, 8), (4, 4), (2, 7), (2, 7)]


def test_out_of_memory_where_features_are_waited_for():
    """What was on its way is computed again, in smaller batches, and no row is lost or doubled."""
    device = LateDevice(20)
    plans = [Plan(np.array(rows), 4, 8) for rows in ([4, 2, 0], [5, 3, 1, 6])]
    features_KNP, _ = run(device, [*single_rows(1), *plans])
    rows = [0, 4, 2, 0, 5, 3, 1, 6]
    np.testing.assert_array_equal(features_KNP[0], [[LENGTHS[row], row + 1] for row in rows])
    assert device.asked == [(1, 8), (4, 8), (4, 8), (2, 8), (2, 8), (2, 8), (2, 8)]
    assert device.events[:6] == ["start 0", "start 4", "end 0", "start 5", "end 4", "start 4"]


def test_out_of_memory_with_a_batch_on_its_way():
    """The batch that was dispatched before is whole all the same."""
    device = Device(room=20)
    features_KNP, _ = run(device, [*single_rows(1), Plan(np.array([4, 2, 3]), 4, 8)])
    rows = [0, 4, 2, 3]
    np.testing.assert_array_equal(features_KNP[0], [[LENGTHS[row], row + 1] for row in rows])


def test_batches_stay_multiples_of_the_devices():
    device = Device(room=20)
    run(device, [Plan(np.array(ROWS), 6, 8)], multiple=2)
    assert device.asked == [(6, 8), (2, 8), (2, 8), (2, 8)]


@pytest.mark.parametrize(("rows", "multiple"), [([3], 1), (ROWS[:2], 2)])
@pytest.mark.parametrize("kind", [Device, LateDevice])
def test_what_does_not_fit_alone_is_refused(rows, multiple, kind):
    way_out = r"row\(s\) of 8 tokens .* set model.remat, lower model.max_length, or use a larger"
    with pytest.raises(InputError, match=f"^{len(rows)} {way_out}"):
        run(kind(7), [Plan(np.array(rows), len(rows), 8)], multiple)


@pytest.mark.parametrize("kind", [Device, LateDevice])
def test_other_errors_of_the_device_pass(kind):
    device = kind(7, "INTERNAL: a kernel failed")
    with pytest.raises(jax.errors.JaxRuntimeError, match="a kernel failed"):
        run(device, [Plan(np.array(ROWS), 5, 8)])
    assert len(device.asked) == 1


def test_tokens_that_fit():
    """The first row takes 700 bytes, each further one 300: 0.9 x 10,000 hold 28 rows."""
    asked = []

    def memory_of(rows: int, width_T: int) -> int:
        asked.append((rows, width_T))
        return 400 + 300 * rows

    assert fitting_tokens(memory_of, 64, 10_000) == int((1 + (9000 - 700) / 300) * 64)
    assert asked == [(1, 64), (2, 64)]
    assert fitting_tokens(memory_of, 64, 100) == 64  # one row, whatever comes of it
    assert fitting_tokens(memory_of, 64, 10**12) == MOST_TOKENS
    assert fitting_tokens(lambda rows, width_T: 500, 64, 10**6) == MOST_TOKENS


# Extraction into stores, one for each kind.


def write_stores(
    folder, order=range(8), batch_tokens=16, writer=StoreWriter, share=(0, 1), change=None
) -> dict:
    """Rows `order` of the 8 examples under their own numbers, after `change` of examples."""
    encoded, order = random_examples(), list(order)
    if change is not None:
        change(encoded)
    network, adapter, base = random_model()
    embedding = base["embed_tokens"].at[UNUSED].set(jnp.nan)
    inputs = inputs_of((network, adapter, base | {"embed_tokens": embedding}))
    function = feature_function(network, directions(*KINDS), NONE)
    config = StoreConfig("float32", chunk_rows=3)
    folders = [epath.Path(folder) / kind for kind in KINDS]
    with writer(folders[0], order, config) as first, writer(folders[1], order, config) as second:
        return extract(
            lambda batch: function(inputs, batch.tokens_BT, batch.supervised_BT),
            [encoded[row] for row in order],
            [first, second],
            batch_tokens,
            "gradients",
            share=share,
        )


def contents(folder) -> dict[str, bytes]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture
def planned(monkeypatch):
    monkeypatch.setattr(extraction, "length_batches", lambda *_: PLANS)


@pytest.mark.parametrize(
    ("order", "batch_tokens"),
    [(range(8), 1000), (range(8), 16), ([5, 2, 7, 0, 1, 6, 4, 3], 16)],
    ids=["one batch", "single rows", "another order"],
)
def test_each_row_is_written_under_its_number(tmp_path, order, batch_tokens):
    write_stores(tmp_path, order, batch_tokens)
    expected = feature_rows(KINDS, random_examples())
    for kind, features_NP in zip(KINDS, expected.features_KBP, strict=True):
        store = open_store(epath.Path(tmp_path / kind))
        np.testing.assert_array_equal(store.rows_N, np.arange(8))
        np.testing.assert_allclose(store.read()[:], unit(features_NP), rtol=0, atol=1e-6)
        norms = np.linalg.norm(features_NP, axis=1)
        np.testing.assert_allclose(store.norms_N, norms, rtol=1e-5)
        np.testing.assert_allclose(store.gradient_norms_N, expected.gradient_norms_B, rtol=1e-5)
        np.testing.assert_array_equal(store.tokens_N, expected.tokens_B)
        assert store.finite_N.all()


def test_rows_without_a_gradient(tmp_path):
    """A row that nothing supervises is a zero row under sgd; one that is not finite is zero and
    marked; both leave the others of their batch alone."""

    def change(encoded):
        encoded[3] = without_supervision(encoded[3:4])[0]
        encoded[5].tokens_T[0] = UNUSED

    write_stores(tmp_path / "plain", batch_tokens=1000)
    write_stores(tmp_path / "changed", batch_tokens=1000, change=change)
    others = [0, 1, 2, 4, 6, 7]
    for kind in KINDS:
        plain, changed = (
            open_store(epath.Path(tmp_path / name / kind)) for name in ("plain", "changed")
        )
        assert changed.finite_N.tolist() == [row != 5 for row in range(8)]
        np.testing.assert_array_equal(changed.read()[others], plain.read()[others])
        for part in ("norms_N", "gradient_norms_N", "tokens_N"):
            before, after = getattr(plain, part), getattr(changed, part)
            np.testing.assert_array_equal(after[others], before[others])
        assert not changed.read()[5].any()
        assert changed.gradient_norms_N[3] == changed.tokens_N[3] == 0
        assert changed.read()[3].any() == (kind == "adam")


class Killed(StoreWriter):
    """Dies when it is handed the second chunk."""

    def write(self, index, *parts):
        if index == 1:
            raise KeyboardInterrupt
        super().write(index, *parts)


class OneKilled(StoreWriter):
    """Dies when it is handed the second chunk, but for the first of the stores."""

    def write(self, index, *parts):
        if index == 1 and self._folder.name != KINDS[0]:
            raise KeyboardInterrupt
        super().write(index, *parts)


@pytest.mark.parametrize("writer", [Killed, OneKilled])
def test_resumed_work_computes_only_what_is_missing(tmp_path, monkeypatch, writer):
    computed = []
    lay_out = extraction.lay_out

    def counting(encoded, plan):
        computed.extend(plan.rows.tolist())
        return lay_out(encoded, plan)

    monkeypatch.setattr(extraction, "lay_out", counting)
    summary = write_stores(tmp_path / "whole")
    whole = computed.copy()
    assert sorted(whole) == list(range(8))
    assert summary["rows_of_pass"] == 8
    with pytest.raises(KeyboardInterrupt):
        write_stores(tmp_path / "killed", writer=writer)
    computed.clear()
    summary = write_stores(tmp_path / "killed")
    assert 0 < len(computed) == summary["rows_of_pass"] < 8
    assert computed == whole[-len(computed) :]
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def write_fakes(folder, device: Device) -> None:
    """One store of the seven fake rows, in chunks of two batches."""
    with StoreWriter(epath.Path(folder), range(7), StoreConfig("float32", 2)) as writer:
        extract(device, row_examples(), [writer], 8, "fake")


@pytest.fixture
def _single_rows(monkeypatch):
    monkeypatch.setattr(extraction, "length_batches", lambda *_, **__: single_rows(7))


@pytest.mark.usefixtures("_single_rows")
def test_the_first_batch_of_a_chunk_is_dispatched_within_the_one_before(tmp_path):
    device = LateDevice()
    write_fakes(tmp_path, device)
    assert device.events[2:8] == ["end 0", "start 2", "end 1", "start 3", "end 2", "start 4"]
    assert len(device.events) == 14


@pytest.mark.usefixtures("_single_rows")
def test_sigterm_keeps_whole_chunks_and_loses_nothing(tmp_path):
    """It comes when the second row is waited for: the third is on its way, and is computed anew."""

    class Asked(LateDevice):
        def computed(self, batch):
            if batch.rows_B[0] == 1 and len(self.events) == 5:
                signal.raise_signal(signal.SIGTERM)
            return super().computed(batch)

    write_fakes(tmp_path / "whole", Device())
    with sigterm_heeded(), pytest.raises(Stopped):
        write_fakes(tmp_path / "stopped", Asked())
    assert [file.name for file in (tmp_path / "stopped").glob("*.done")] == ["chunk-00000.done"]
    device = LateDevice()
    write_fakes(tmp_path / "stopped", device)
    assert device.events[:2] == ["start 2", "start 3"]
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


@pytest.mark.parametrize("processes", [2, 5])
def test_shares_of_processes_make_up_the_whole(tmp_path, planned, processes):
    """Two of the five processes have no chunk to compute."""
    summary = write_stores(tmp_path / "whole")
    assert summary["rows_of_pass"] == 8
    shares = [
        write_stores(tmp_path / "shared", share=(index, processes))["rows_of_pass"]
        for index in range(processes)
    ]
    assert shares == {2: [4, 4], 5: [3, 4, 1, 0, 0]}[processes]
    assert contents(tmp_path / "shared") == contents(tmp_path / "whole")


def test_what_the_work_came_to(tmp_path, planned):
    summary = write_stores(tmp_path)
    real = sum(len(example.tokens_T) for example in random_examples())
    laid_out = sum(plan.size_B * plan.width_T for plan in PLANS)
    assert summary["padding"] == pytest.approx(1 - real / laid_out, abs=1e-4)
    assert (summary["rows_of_pass"], summary["shapes"]) == (8, 2)
    assert summary["seconds_of_pass"] >= summary["seconds_waiting_for_disk"] >= 0


def test_chunks_hold_whole_batches_of_at_least_the_asked_rows(tmp_path, planned):
    laid_out = []

    class Finished(StoreWriter):
        def start(self, chunks):
            laid_out.extend(chunk.tolist() for chunk in chunks)
            return [True] * len(chunks)

    write_stores(tmp_path, writer=Finished)
    assert laid_out == 2 * [[4, 6, 3], [0, 7, 1, 2], [5]]


def test_one_compilation_for_each_shape(tmp_path, planned):
    """Five batches, and another stage with the same settings, share it."""
    write_stores(tmp_path / "pool")
    function = feature_function(random_model()[0], directions(*KINDS), NONE)
    programs = function._cache_size()
    write_stores(tmp_path / "validation")
    assert function._cache_size() == programs


def test_each_device_gets_the_tokens_asked_for(monkeypatch, tmp_path):
    asked = []

    def plans_of(encoded, tokens, multiple, compile_cost):
        asked.append((tokens, multiple, compile_cost))
        return [Plan(np.arange(7), 8, 8)]

    monkeypatch.setattr(extraction, "length_batches", plans_of)
    with StoreWriter(epath.Path(tmp_path), range(7), StoreConfig("float32", 100)) as first:
        second = StoreWriter(epath.Path(tmp_path) / "b", range(7), StoreConfig("float32", 100))
        with second:
            stores = [first, second]
            extract(Device(), row_examples(), stores, 100, "fake", devices=4, compile_cost=7)
    assert asked == [(400, 4, 7)]
