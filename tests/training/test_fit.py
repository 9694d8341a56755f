"""The loop: resumes bit for bit, compiles once a shape, and learns."""

import itertools
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from g2is_jax.data.batches import TrainingShapes, epoch_order, training_batches
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.metrics import MetricsLog
from g2is_jax.runs.stopping import Stopped, sigterm_heeded
from g2is_jax.training import fit as loop
from g2is_jax.training import steps as one_step
from g2is_jax.training.fit import FitConfig, fit, load_trained, mean_rates
from g2is_jax.training.steps import accumulate
from tests.support.tiny_models import random_leaves
from tests.support.tiny_training import ADAMW, log_of, random_rows, shapes_of, tiny_model

LENGTHS = (13, 6, 16, 9, 2, 14, 8, 11, 16)
CONFIG = FitConfig(
    epochs=3, batch_size=4, microbatch_tokens=64, keep_checkpoints=0, packing=False, optimizer=ADAMW
)
STEPS = 9  # three an epoch


@pytest.fixture(scope="module")
def model():
    return tiny_model(dropout=0.2)


@pytest.fixture(scope="module")
def base(model):
    return random_leaves(model.base_shapes)


def run(model, base, folder, rows=None, config=CONFIG, seed=5, after_epoch=None):
    encoded = random_rows(LENGTHS) if rows is None else rows
    shapes = shapes_of(random_rows(LENGTHS), config.batch_size)
    ids = [f"row-{n}" for n in range(len(encoded))]
    return fit(
        model, base, encoded, shapes, config, seed, epath.Path(folder), ids, None, after_epoch
    )


def assert_equal(ours, theirs):
    """Check adapters and moments, bit for bit."""
    (adapter, moments), (other, other_moments) = ours, theirs
    assert moments.step == other_moments.step
    for mine, yours in (
        (adapter, other),
        (moments.first, other_moments.first),
        (moments.second, other_moments.second),
    ):
        assert mine.keys() == yours.keys()
        for path, leaf in mine.items():
            np.testing.assert_array_equal(leaf, yours[path])


@pytest.fixture(scope="module")
def uninterrupted(model, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, run(model, base, folder)


@pytest.mark.parametrize("dies", [[0], [2], [3], [5, 7], [8]])
def test_resume_equals_uninterrupted(model, base, uninterrupted, tmp_path, monkeypatch, dies):
    """The run dies where a step is logged: before, at and after a checkpoint, and twice."""
    whole, expected = uninterrupted
    write = MetricsLog.write
    for death in dies:

        def dying(self, step, death=death, **values):
            if step == death:
                raise KeyboardInterrupt
            write(self, step, **values)

        monkeypatch.setattr(MetricsLog, "write", dying)
        with pytest.raises(KeyboardInterrupt):
            run(model, base, tmp_path)
    monkeypatch.setattr(MetricsLog, "write", write)
    assert_equal(run(model, base, tmp_path), expected)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("steps", [[0], [4], [2, 7], [8]])
def test_sigterm_costs_no_step(model, base, uninterrupted, tmp_path, monkeypatch, steps):
    """SIGTERM comes where a step is logged: within an epoch, at its end, twice, at the very end."""
    whole, expected = uninterrupted
    write, taken = MetricsLog.write, []
    for last in steps:

        def asked(self, step, last=last, **values):
            write(self, step, **values)
            taken.append(step)
            if step == last:
                signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(MetricsLog, "write", asked)
        with sigterm_heeded(), pytest.raises(Stopped):
            run(model, base, tmp_path)
    assert_equal(run(model, base, tmp_path), expected)
    assert taken == list(range(STEPS))[: len(taken)]
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    names = [entry.name for entry in tmp_path.iterdir()]
    assert sorted(names) == sorted(entry.name for entry in whole.iterdir())
    assert_equal(load_trained(model, CONFIG, 5, epath.Path(tmp_path))[-1], expected)
    assert len(load_trained(model, CONFIG, 5, epath.Path(tmp_path))) == CONFIG.epochs


def test_finished_run_is_only_read(model, base, uninterrupted, monkeypatch):
    folder, expected = uninterrupted
    before = (folder / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(one_step, "accumulate", None)  # no step is taken
    assert_equal(run(model, base, folder), expected)
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert_equal(load_trained(model, CONFIG, 5, epath.Path(folder))[-1], expected)


def test_log_and_checkpoints(uninterrupted):
    folder, (_, moments) = uninterrupted
    lines = log_of(folder)
    assert [line["step"] for line in lines] == list(range(STEPS))
    rows = random_rows(LENGTHS)
    tokens = sum(int(row.supervised_T.sum()) for row in rows)
    for epoch in range(3):
        assert sum(line["tokens"] for line in lines[3 * epoch : 3 * epoch + 3]) == tokens
    rates = [line["learning_rate"] for line in lines]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(ADAMW.learning_rate)
    assert moments.step == STEPS
    assert {p.name for p in (folder / "checkpoints").iterdir() if p.is_dir()} >= {"3", "6", "9"}


def test_trained_checkpoints_oldest_first(model, base, uninterrupted, tmp_path):
    """Each checkpoint is the state of training so far; only those kept are there."""
    folder, expected = uninterrupted
    trained = load_trained(model, CONFIG, 5, epath.Path(folder))
    assert [moments.step for _, moments in trained] == [3, 6, 9]
    assert_equal(trained[-1], expected)
    kept = replace(CONFIG, keep_checkpoints=2)
    run(model, base, tmp_path, config=kept)
    newest = load_trained(model, kept, 5, epath.Path(tmp_path))
    for state, same in zip(newest, trained[1:], strict=True):
        assert_equal(state, same)


def test_trained_arrays_are_bound_to_no_device(model, uninterrupted):
    """Unbound arrays go where the base is, on one device or on many."""
    for adapter, moments in load_trained(model, CONFIG, 5, epath.Path(uninterrupted[0])):
        leaves = [*adapter.values(), *moments.first.values(), *moments.second.values()]
        assert not any(leaf.committed for leaf in leaves)


def test_mean_rates_are_those_of_the_epochs(tmp_path):
    """The log is written by hand: three epochs of two steps."""
    folder = epath.Path(tmp_path)
    log = MetricsLog(folder / "metrics.jsonl")
    for step, rate in enumerate((0.0, 0.5, 1.0, 0.75, 0.5, 0.0)):
        log.write(step, loss=1.0, tokens=3, learning_rate=rate)
    assert mean_rates(folder, [2, 4, 6], epochs=3) == [0.25, 0.875, 0.25]
    assert mean_rates(folder, [4], epochs=3) == [0.875]


def test_mean_rates_of_a_run(model, uninterrupted):
    folder = epath.Path(uninterrupted[0])
    rates = [line["learning_rate"] for line in log_of(uninterrupted[0])]
    expected = np.reshape(rates, (3, 3)).mean(axis=1)
    steps = [moments.step for _, moments in load_trained(model, CONFIG, 5, folder)]
    np.testing.assert_allclose(mean_rates(folder, steps, CONFIG.epochs), expected, rtol=1e-12)


def test_loss_goes_down(base, tmp_path):
    model = tiny_model()  # no dropout: a few steps of a few rows tell
    optimizer = replace(ADAMW, learning_rate=0.05, weight_decay=0.0)
    config = replace(CONFIG, epochs=20, keep_checkpoints=1, optimizer=optimizer)
    run(model, base, tmp_path, config=config)
    losses = [line["loss"] for line in log_of(tmp_path)]
    assert np.mean(losses[-3:]) < 0.85 * np.mean(losses[:3])
    assert [p.name for p in (tmp_path / "checkpoints").iterdir() if p.is_dir()] == ["60"]


def test_seed_decides_the_run(model, base, uninterrupted, tmp_path):
    adapter, _ = run(model, base, tmp_path, seed=6)
    _, (other, _) = uninterrupted
    assert all((adapter[path] != leaf).any() for path, leaf in other.items())


def test_compiles_once_a_shape(base, tmp_path, monkeypatch):
    """A resumed run, or other rows in the same shapes, compile nothing more."""
    traced = []
    true_loss = one_step.batch_loss

    def counted(model, adapter, base, tokens_BT, *rest):
        traced.append(tokens_BT.shape)
        return true_loss(model, adapter, base, tokens_BT, *rest)

    monkeypatch.setattr(one_step, "batch_loss", counted)
    fresh = tiny_model(dropout=0.2)  # its functions are not traced yet
    config = replace(CONFIG, epochs=2, optimizer=replace(ADAMW, eps=2e-6))
    run(fresh, base, tmp_path / "a", config=config)
    assert len(traced) == len(set(traced)) == len(shapes_of(random_rows(LENGTHS), 4).shapes)
    run(fresh, base, tmp_path / "b", rows=random_rows(LENGTHS[::-1][2:], seed=8), config=config)
    assert len(traced) == len(set(traced))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_microbatches_equal_one_batch(base, dropout):
    """This holds under dropout too: masks depend on step and row, not on shapes."""
    model = tiny_model(dropout=dropout)
    adapter = random_leaves(model.adapter_shapes, 3)
    rows = random_rows(LENGTHS)
    key = jax.random.key(9)
    results = []
    for shapes in (TrainingShapes(((64, 16),)), TrainingShapes(((2, 8), (1, 24)))):
        ((_, microbatches),) = training_batches(rows, 9, 0, 1, 0, shapes)
        results.append((len(microbatches), accumulate(model, adapter, base, microbatches, key)))
    (few, (whole, loss, tokens)), (many, (summed, same_loss, same_tokens)) = results
    assert (few, int(tokens)) == (1, int(same_tokens))
    assert many > 4
    assert float(same_loss) == pytest.approx(float(loss), rel=1e-5)
    for path, leaf in whole.items():
        error = np.linalg.norm(summed[path] - leaf) / np.linalg.norm(leaf)
        assert error < 1e-5, path


def test_dropout_differs_between_rows_and_steps(base):
    """Two copies of a row in a batch, and one row at two steps, lose different values."""
    model = tiny_model(dropout=0.3)
    adapter = random_leaves(model.adapter_shapes, 3)
    (row,) = random_rows([8])
    shapes = TrainingShapes(((1, 8),))
    ((_, twice),) = training_batches([row, row], 2, 0, 1, 0, shapes)
    losses = [
        float(accumulate(model, adapter, base, [batch], jax.random.key(step))[1])
        for batch, step in itertools.product(twice, (0, 1))
    ]
    assert len(set(losses)) == 4


def test_step_without_supervised_tokens(model, base, tmp_path):
    """Such a step changes nothing and logs a number."""
    rows = [
        replace(row, supervised_T=np.zeros(len(row.tokens_T), bool)) for row in random_rows(LENGTHS)
    ]
    config = replace(CONFIG, epochs=1, optimizer=replace(ADAMW, weight_decay=0.0))
    adapter, _ = run(model, base, tmp_path, rows=rows, config=config)
    assert [line["loss"] for line in log_of(tmp_path)] == [0.0, 0.0, 0.0]
    for path, leaf in model.init_adapter(5).items():
        np.testing.assert_array_equal(adapter[path], leaf)


def test_after_each_epoch_the_adapter_is_handed_out(model, base, uninterrupted, tmp_path):
    """The adapter is the checkpoint's; a run killed before the checkpoint hands it out again."""
    handed = {}

    def keep(epoch, adapter):
        handed.setdefault(epoch, []).append(jax.tree.map(np.array, adapter))
        if epoch == 2 and len(handed[2]) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, base, tmp_path, after_epoch=keep)
    assert_equal(run(model, base, tmp_path, after_epoch=keep), uninterrupted[1])
    assert {epoch: len(of_epoch) for epoch, of_epoch in handed.items()} == {1: 1, 2: 2, 3: 1}
    trained = load_trained(model, CONFIG, 5, epath.Path(uninterrupted[0]))
    for (adapter, _), of_epoch in zip(trained, handed.values(), strict=True):
        for seen, path in itertools.product(of_epoch, adapter):
            np.testing.assert_array_equal(seen[path], adapter[path])


def without_number(monkeypatch, bad: int, what: str, asked: int | None = None) -> None:
    """One step's gradient or loss is no number; SIGTERM comes at the step `asked`."""
    true_accumulate, steps = one_step.accumulate, itertools.count()

    def accumulated(*arguments):
        gradients, loss, tokens = true_accumulate(*arguments)
        step = next(steps)
        if step == asked:
            signal.raise_signal(signal.SIGTERM)
        if step != bad:
            return gradients, loss, tokens
        if what == "loss":
            return gradients, loss * np.nan, tokens
        last = max(gradients)
        return gradients | {last: gradients[last].at[0, 0].set(np.inf)}, loss, tokens

    monkeypatch.setattr(one_step, "accumulate", accumulated)


@pytest.mark.parametrize("bad", [3, 4, 5], ids=["first", "second", "last of its epoch"])
@pytest.mark.parametrize("what", ["gradient", "loss"])
def test_stops_where_there_is_no_number(model, base, tmp_path, monkeypatch, bad, what):
    """A step of the second epoch has no number: nothing from it on is logged, kept, handed out."""
    without_number(monkeypatch, bad, what)
    handed = []
    with pytest.raises(InputError) as caught:
        run(model, base, tmp_path, after_epoch=lambda epoch, adapter: handed.append(epoch))
    message = str(caught.value)
    reason = {"gradient": "its gradient is not finite", "loss": "its loss is nan"}[what]
    assert message.startswith(f"{tmp_path}: training stopped at step {bad}: {reason}; ")
    assert f"the last good checkpoint is {tmp_path / 'checkpoints' / '3'}; lower" in message
    assert "lower learning_rate or lora.alpha" in message
    first = 4 * (bad - 3)
    ids = [f"row-{row}" for row in epoch_order(9, 5, 1)[first : first + 4]]
    assert message.endswith(f"the step's rows: {', '.join(ids)}")
    assert [line["step"] for line in log_of(tmp_path)] == list(range(bad))
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["3"]
    assert handed == [1]


def test_a_step_without_number_is_not_what_a_stop_leaves(model, base, tmp_path, monkeypatch):
    """SIGTERM comes when the bad step is dispatched and nobody has looked at it yet."""
    without_number(monkeypatch, 3, "loss", asked=4)
    with sigterm_heeded(), pytest.raises(InputError, match="stopped at step 3: its loss is nan"):
        run(model, base, tmp_path)
    assert not (tmp_path / loop.AT_STOP).exists()


ONE_ROW = replace(CONFIG, batch_size=1, epochs=2)  # nine steps an epoch


def test_the_device_has_steps_to_do_while_one_is_read(model, base, tmp_path, monkeypatch):
    """No value but those of a step's outcome comes to the host, and that two steps later."""
    events: list[str] = []
    true_accumulate, write, steps = one_step.accumulate, MetricsLog.write, itertools.count()
    array = type(jnp.zeros(()))
    value = array._value

    def accumulated(*arguments):
        found = true_accumulate(*arguments)
        events.append(f"start {next(steps)}")
        return found

    def written(self, step, **values):
        write(self, step, **values)
        events.append(f"read {step}")

    def fetched(self):
        if not events or events[-1] != "fetch":
            events.append("fetch")
        return value.fget(self)

    run(model, base, tmp_path / "before", config=ONE_ROW)  # compiles, which fetches constants
    monkeypatch.setattr(one_step, "accumulate", accumulated)
    monkeypatch.setattr(MetricsLog, "write", written)
    monkeypatch.setattr(array, "_value", property(fetched))
    run(
        model,
        base,
        tmp_path,
        config=ONE_ROW,
        after_epoch=lambda epoch, adapter: events.append(f"epoch {epoch}"),
    )
    start, read = [[f"{what} {step}" for step in range(18)] for what in ("start", "read")]
    expected = ["fetch"]  # the learning rates
    for epoch in (1, 2):
        first, last = 9 * (epoch - 1), 9 * epoch
        expected += start[first : first + 2]
        for step in range(first, last):
            expected += [*start[step + 2 : last][:1], "fetch", read[step]]
        expected.append(f"epoch {epoch}")
    assert events == [*expected, "fetch"]  # the result


def test_sigterm_within_an_epoch_leaves_the_steps_that_were_dispatched(
    model, base, tmp_path, monkeypatch
):
    """It comes with the third step; that one is the last, and nothing of it is lost."""
    without_number(monkeypatch, -1, "", asked=2)
    with sigterm_heeded(), pytest.raises(Stopped):
        run(model, base, tmp_path, config=ONE_ROW)
    assert [file.name for file in (tmp_path / loop.AT_STOP).iterdir()] == ["3"]
    assert [line["step"] for line in log_of(tmp_path)] == [0, 1, 2]
    monkeypatch.undo()
    resumed = run(model, base, tmp_path, config=ONE_ROW)
    assert_equal(resumed, run(model, base, tmp_path / "whole", config=ONE_ROW))
    logs = [folder / "metrics.jsonl" for folder in (tmp_path, tmp_path / "whole")]
    assert logs[0].read_bytes() == logs[1].read_bytes()


def test_too_high_a_rate_is_reported(model, base, tmp_path):
    """The adapter grows out of float32 by itself, with no value put in by the test."""
    optimizer = replace(ADAMW, learning_rate=1e30, schedule="constant", warmup=0.0)
    with pytest.raises(InputError, match=r"stopped at step 1: its loss is nan; there is no check"):
        run(model, base, tmp_path, config=replace(CONFIG, optimizer=optimizer))
