"""The benchmark of the store: what counts as hidden, as an error, and as lost."""

import numpy as np
import pytest
from etils import epath

from experiments.bench import store as bench
from g2is_jax.features.store import open_store
from g2is_jax.runs.errors import InputError

SETTINGS = {"parts": "speed", "width": 16, "rows": 10, "chunk_rows": 4, "chunks": 3, "kills": 1,
            "seconds": 0.001, "threads": 1, "writer_cores": 0, "repeats": 1}  # fmt: skip
CONFIG = bench.BenchConfig(**SETTINGS)


def test_hidden_share():
    """Of 2 seconds of writing 0.5 are not hidden, of a pass of 10; a slow round does not count."""
    passes = [bench.Pass(10.5, 2.0), bench.Pass(13.0, 2.0), bench.Pass(10.2, 2.0)]
    found = bench.hiding(passes, [10.0, 10.0, 10.0])
    assert found == pytest.approx({"hidden": 0.75, "longer": 0.05})


def test_rms_error_is_of_pairs():
    truth_NN = np.eye(3)
    found_NN = truth_NN + np.array([[9, 0.3, 0], [0.3, 9, 0.4], [0, 0.4, 9]])
    assert bench.rms_error(found_NN, truth_NN) == pytest.approx(0.5 / np.sqrt(3))


def test_written_chunks_are_the_rows(tmp_path):
    features_NP = bench.random_features(10, 16)
    folder = epath.Path(tmp_path / "store")
    last = bench.write_chunks(folder, 10, "float32", 4, features_NP.__getitem__)
    assert last.writing >= 0
    assert last.elapsed > 0
    norms_N1 = np.linalg.norm(features_NP, axis=1, keepdims=True)
    found = open_store(folder)
    np.testing.assert_allclose(found.read()[:], features_NP / norms_N1, atol=1e-6)
    again = bench.write_chunks(folder, 10, "float32", 4, features_NP.__getitem__)
    assert again == (0, 0)  # nothing is left to do


def test_error_of_each_dtype():
    found = bench.error(CONFIG)
    assert found["float32"] < 1e-6 < found["int8"] < 1e-2
    assert found["bfloat16"] < 1e-2


def test_one_kill(tmp_path):
    """A process that is killed in its second chunk of three, which takes long."""
    config = bench.BenchConfig(**SETTINGS | {"seconds": 60.0})
    assert bench.killed(config, tmp_path / "store", after=0.1) == 1
    assert bench.done_marks(tmp_path / "store") == 0
    bench.finish(CONFIG, tmp_path / "store")
    assert bench.done_marks(tmp_path / "store") == 3
    assert len((tmp_path / bench.BEGUN).read_text().split()) == 4


@pytest.mark.parametrize(("field", "value"), [("parts", "time"), ("kills", 0), ("chunks", 1)])
def test_wrong_settings(field, value):
    with pytest.raises(InputError, match=f"--{field}"):
        bench.BenchConfig(**SETTINGS | {field: value})
