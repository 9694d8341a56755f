"""The benchmark of packing: both sides do the same work, and the ratio is of pairs."""

import pytest

from experiments.bench import packing as bench
from g2is_jax.runs.errors import InputError

SETTINGS = {"parts": "stories", "rank": 2, "rows": 12, "tokens": 24, "batch": 6, "microbatch": 96,
            "threads": 1, "repeats": 2}  # fmt: skip


def test_measured_and_told(monkeypatch):
    monkeypatch.setattr("experiments.bench.timing.pin", lambda threads: [0])
    result = bench.run(bench.BenchConfig(**SETTINGS))
    found = result["stories"]
    packed, padded = found["sides"]["packed"], found["sides"]["padded"]
    assert packed["padding"] < padded["padding"]
    assert packed["microbatches"] <= padded["microbatches"]
    pairs = zip(padded["seconds"], packed["seconds"], strict=True)
    assert found["faster"]["median"] == pytest.approx(sum(a / b for a, b in pairs) / 2)
    text = bench.table(result)
    assert f"12 rows of at most {found['longest']} tokens, {found['tokens']} in all" in text
    assert "packed is faster by" in text


def test_another_loss_is_no_measurement(monkeypatch):
    losses = {False: 10.0, True: 10.1}

    def epoch_of(subject, lengths, config, packed):
        return lambda: losses[packed], {}

    monkeypatch.setattr(bench, "epoch_of", epoch_of)
    with pytest.raises(RuntimeError, match=r"10\.1 packed and 10\.0 padded"):
        bench.measure("stories", bench.BenchConfig(**SETTINGS))


@pytest.mark.parametrize(
    ("field", "value"), [("parts", "speed"), ("tokens", 1), ("rows", 0), ("repeats", 0)]
)
def test_wrong_settings(field, value):
    with pytest.raises(InputError, match=f"--{field}"):
        bench.BenchConfig(**SETTINGS | {field: value})
