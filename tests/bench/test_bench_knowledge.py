"""The benchmark of core knowledge: what it compares, and that exponents are told right."""

import pytest

from experiments.bench import knowledge as bench
from g2is_jax.runs.errors import InputError

SETTINGS = {"parts": "pca,growth", "rows": 24, "width": 60, "narrow": 8, "keep": 0.5, "threads": 1,
            "repeats": 2}  # fmt: skip


def test_measured_and_told(monkeypatch):
    """Both sides find the same directions; every shape is timed."""
    monkeypatch.setattr("experiments.bench.timing.pin", lambda threads: [0])
    result = bench.run(bench.BenchConfig(**SETTINGS))
    found = result["pca"]
    assert found["largest_difference"] < 1e-5
    assert found["faster"].keys() == {"float64", "float32"}
    pair = found["seconds"]["float64"], found["seconds"]["ours"]
    assert found["faster"]["float64"]["median"] == pytest.approx(
        sum(t / o for t, o in zip(*pair, strict=True)) / 2
    )
    assert result["growth"]["rows"]["shapes"] == [(6, 60), (12, 60), (24, 60), (48, 60)]
    assert result["growth"]["width"]["shapes"] == [(24, 15), (24, 30), (24, 60), (24, 120)]
    assert result["growth"]["many_rows"]["shapes"] == [(32, 8), (64, 8), (128, 8), (256, 8)]
    text = bench.table(result)
    assert "24 rows of 60" in text
    for name in ("rows", "width", "many rows"):
        assert f"growth with {name}: exponent" in text


def test_other_directions_are_not_passed_over(monkeypatch):
    """A core of another size than scikit-learn's is no measurement."""
    ours = bench.ours
    monkeypatch.setattr(bench, "ours", lambda features_MP, keep: ours(features_MP, 0.99))
    with pytest.raises(ValueError, match="scikit-learn's"):
        bench.against_sklearn(bench.BenchConfig(**SETTINGS))


@pytest.mark.parametrize(
    ("field", "value"), [("parts", "speed"), ("rows", 7), ("keep", 1.0), ("repeats", 0)]
)
def test_wrong_settings(field, value):
    with pytest.raises(InputError, match=f"--{field}"):
        bench.BenchConfig(**SETTINGS | {field: value})
