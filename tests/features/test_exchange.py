"""A matrix goes into a store and out of it unchanged; what is not one is refused in one line."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from etils import epath

from experiments import exchange_features
from g2is_jax.features import exchange
from g2is_jax.features.exchange import Summary, export_features, import_features
from g2is_jax.features.store import StoreConfig, StoreWriter, open_store
from g2is_jax.pipeline.command_line import parse_flags
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.tensors import read_tensors, to_bytes

CONFIG = StoreConfig("float32", chunk_rows=4)  # of the 11 rows: 4, 4 and 3
SHAPE = (11, 29)


@pytest.fixture
def place(tmp_path) -> epath.Path:
    return epath.Path(tmp_path)


def matrix() -> np.ndarray:
    """Rows of different lengths, one of them zero."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=SHAPE) * 10.0 ** rng.uniform(-2, 2, size=(SHAPE[0], 1))
    rows[6] = 0
    return rows.astype(np.float32)


def unit(rows) -> np.ndarray:
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    return rows / np.where(norms > 0, norms, 1)[:, None]


def save(file: epath.Path, array: np.ndarray, **known) -> epath.Path:
    """A file of this matrix, by the suffix."""
    if file.suffix == ".npy":
        np.save(file, array)
    elif file.suffix == ".safetensors":
        file.write_bytes(to_bytes({"features": array, **known}))
    else:
        import torch

        torch.save(torch.from_numpy(array), file)
    return file


def store(folder: epath.Path, rows_N=range(SHAPE[0]), broken=()) -> epath.Path:
    """A store whose chunks hold its rows out of order."""
    features_NP = matrix()
    features_NP[list(broken)] = np.nan
    chunks = [np.arange(SHAPE[0])[start::3] for start in range(3)]
    with StoreWriter(folder, rows_N, StoreConfig("bfloat16", 4)) as writer:
        writer.start(chunks)
        for index, chunk in enumerate(chunks):
            writer.write(index, features_NP[chunk], 2.0 + chunk, 100 + chunk)
    return folder


@pytest.fixture(params=[".npy", ".safetensors", ".pt"])
def suffix(request) -> str:
    if request.param == ".pt":
        request.getfixturevalue("torch")
    return request.param


# There and back.


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_import_takes_rows_as_they_are(place, suffix, dtype):
    rows = matrix().astype(dtype)
    source = save(place / f"rows{suffix}", rows)
    assert import_features(source, place / "store", CONFIG) == Summary(*SHAPE, 0)
    features = open_store(place / "store")
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    np.testing.assert_allclose(features.read()[:], unit(rows), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(features.norms_N, norms, rtol=1e-6)
    np.testing.assert_array_equal(features.gradient_norms_N, features.norms_N)
    np.testing.assert_array_equal(features.rows_N, np.arange(SHAPE[0]))
    np.testing.assert_array_equal(features.tokens_N, 0)
    assert len(open_store(place / "store").positions) == 3


def test_bfloat16_rows(place, torch):
    """NumPy has no such dtype, the other two have."""
    rows = matrix().astype(ml_dtypes.bfloat16)
    save(place / "rows.safetensors", rows)
    torch.save(torch.from_numpy(rows.astype(np.float32)).bfloat16(), place / "rows.pt")
    for name in ("rows.safetensors", "rows.pt"):
        import_features(place / name, place / name[-2:], CONFIG)
        found = open_store(place / name[-2:]).read()[:]
        np.testing.assert_allclose(found, unit(rows.astype(np.float32)), rtol=1e-6)


@pytest.mark.parametrize("kind", ["column-major", "big-endian"])
def test_unusual_layouts_of_npy(place, kind):
    rows = np.asfortranarray(matrix()) if kind == "column-major" else matrix().astype(">f4")
    import_features(save(place / "rows.npy", rows), place / "store", CONFIG)
    np.testing.assert_allclose(open_store(place / "store").read()[:], unit(matrix()), rtol=1e-6)


def test_a_gradient_of_torch_needs_no_detaching(place, torch):
    torch.save(torch.nn.Parameter(torch.from_numpy(matrix())), place / "rows.pt")
    assert import_features(place / "rows.pt", place / "store", CONFIG).rows == SHAPE[0]


def test_the_old_format_of_torch(place, torch):
    tensor = torch.from_numpy(matrix())
    torch.save(tensor, place / "rows.pt", _use_new_zipfile_serialization=False)
    assert import_features(place / "rows.pt", place / "store", CONFIG).rows == SHAPE[0]


def test_export_and_import_give_the_same_rows(place, suffix):
    """The file holds bit for bit the rows that a reader of the store gets."""
    folder, file = store(place / "store"), place / "below" / f"out{suffix}"
    assert export_features(folder, file) == Summary(*SHAPE, 0)
    import_features(file, place / "again", CONFIG)
    before, after = open_store(folder), open_store(place / "again")
    np.testing.assert_allclose(after.read()[:], unit(before.read()[:]), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(after.rows_N, before.rows_N)
    assert [name.name for name in file.parent.iterdir()] == [file.name]


def test_exported_bytes_are_the_matrix(place, torch):
    folder = store(place / "store", rows_N=np.arange(SHAPE[0])[::-1])
    expected = open_store(folder)
    for suffix in (".npy", ".safetensors", ".pt"):
        export_features(folder, place / f"out{suffix}")
    tensors = read_tensors(place / "out.safetensors")
    tensor = torch.load(place / "out.pt", weights_only=True)
    for found in (np.load(place / "out.npy"), tensors["features"], tensor.numpy()):
        np.testing.assert_array_equal(found, expected.read()[:])
        assert found.dtype == np.float32
    for name in ("rows", "norms", "gradient_norms", "tokens", "finite"):
        np.testing.assert_array_equal(tensors[name], getattr(expected, f"{name}_N"))


def as_if_remote(monkeypatch):
    """Every place counts as one that cannot be mapped."""
    monkeypatch.setattr(exchange, "in_object_store", lambda path: True)


def test_places_that_are_no_local_paths(place, suffix, monkeypatch):
    folder = store(place / "store")
    as_if_remote(monkeypatch)
    export_features(folder, place / f"out{suffix}")
    import_features(place / f"out{suffix}", place / "again", CONFIG)
    before, after = open_store(folder), open_store(place / "again")
    np.testing.assert_allclose(after.read()[:], unit(before.read()[:]), rtol=1e-6, atol=1e-9)


def test_safetensors_keep_what_is_known_of_each_row(place):
    numbers = np.array([40, 3, 5, 8, 13, 21, 34, 55, 89, 2, 1])
    folder = store(place / "store", numbers, broken=[4])
    assert export_features(folder, place / "out.safetensors") == Summary(*SHAPE, 1)
    summary = import_features(place / "out.safetensors", place / "again", CONFIG)
    assert summary == Summary(*SHAPE, 1)
    before, after = open_store(folder), open_store(place / "again")
    np.testing.assert_array_equal(before.rows_N, np.sort(numbers))
    np.testing.assert_allclose(after.norms_N, before.norms_N, rtol=1e-6)
    for name in ("rows_N", "gradient_norms_N", "tokens_N", "finite_N"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_the_only_matrix_of_a_file_needs_no_name(place):
    tensors = {"gradients": matrix(), "tokens": np.arange(SHAPE[0]), "mean": np.ones(SHAPE[1])}
    (place / "rows.safetensors").write_bytes(to_bytes(tensors))
    import_features(place / "rows.safetensors", place / "store", CONFIG)
    features = open_store(place / "store")
    np.testing.assert_allclose(features.read()[:], unit(matrix()), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(features.tokens_N, np.arange(SHAPE[0]))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38, 1e300])
def test_a_row_that_is_not_finite_is_counted(place, suffix, value):
    """Nor is one whose norm is beyond float32, or float64."""
    rows = matrix().astype(np.float64)
    rows[3, 2:] = value
    rows[9, 0] = np.nan
    source = save(place / f"rows{suffix}", rows)
    assert import_features(source, place / "store", CONFIG) == Summary(*SHAPE, 2)
    features = open_store(place / "store")
    assert np.flatnonzero(~features.finite_N).tolist() == [3, 9]
    np.testing.assert_array_equal(features.read()[[3, 9]], 0)


def test_a_norm_that_is_not_finite_is_counted(place):
    norms, gradient_norms = np.ones(11), np.ones(11)
    norms[6], gradient_norms[2] = np.inf, np.nan  # row 6 is zero
    known = {"norms": norms, "gradient_norms": gradient_norms}
    source = save(place / "rows.safetensors", matrix(), **known)
    assert import_features(source, place / "store", CONFIG).not_finite == 2
    assert np.flatnonzero(~open_store(place / "store").finite_N).tolist() == [2, 6]


# What cannot be exchanged.


@pytest.mark.parametrize(
    ("array", "reported"),
    [
        (np.zeros((0, 3), np.float32), r"its shape is \(0, 3\); expected \(rows, values\)"),
        (np.zeros((3, 0), np.float32), r"its shape is \(3, 0\)"),
        (np.zeros(3, np.float32), r"its shape is \(3,\)"),
        (np.zeros((2, 3, 4), np.float32), r"its shape is \(2, 3, 4\)"),
        (np.ones((2, 3), bool), "of dtype bool; save it as float32"),
    ],
)
def test_a_file_that_is_no_matrix_of_numbers(place, suffix, array, reported):
    source = save(place / f"rows{suffix}", array)
    with pytest.raises(InputError, match=rf"rows\{suffix}: {reported}"):
        import_features(source, place / "store", CONFIG)
    assert not (place / "store").exists()


@pytest.mark.parametrize(
    "array", [np.ones((2, 3), complex), np.full((2, 3), "1"), np.ones((2, 3), "f4,f4")]
)
def test_npy_of_other_dtypes(place, array):
    with pytest.raises(InputError, match=r"rows\.npy: of dtype .*; save it as float32"):
        import_features(save(place / "rows.npy", array), place / "store", CONFIG)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("remote", [False, True])
def test_no_pickle_is_read(place, torch, monkeypatch, remote):
    np.save(place / "rows.npy", np.array([[Trap(place / "trap")]], object), allow_pickle=True)
    torch.save(Trap(place / "trap"), place / "code.pt")
    torch.save({"rows": torch.ones(2, 3)}, place / "dict.pt")
    torch.save(torch.ones(2, 3).to_sparse(), place / "sparse.pt")
    (place / "text.pt").write_text("rows")
    if remote:
        as_if_remote(monkeypatch)
    with pytest.raises(InputError, match=r"rows\.npy: not a whole \.npy file of numbers"):
        import_features(place / "rows.npy", place / "store", CONFIG)
    for name in ("dict", "code", "sparse", "text"):
        with pytest.raises(InputError, match=rf"{name}\.pt: does not hold one dense tensor \("):
            import_features(place / f"{name}.pt", place / "store", CONFIG)
    assert not (place / "trap").exists()


@pytest.mark.parametrize("version", ["1.13.1", "2.5.1+cu124"])
def test_a_torch_that_may_run_code_is_refused(place, torch, monkeypatch, version):
    torch.save(torch.ones(2, 3), place / "rows.pt")
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(InputError, match=r"rows\.pt: PyTorch .* may run code.*torch>=2\.6"):
        import_features(place / "rows.pt", place / "store", CONFIG)


@pytest.mark.parametrize("shape", [f"({10**30}, 2)", "(True, 2)", "2", "(" + "-" * 9000 + "1, 2)"])
def test_npy_with_a_mean_header(place, shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    (place / "rows.npy").write_bytes(start + header + bytes(64))
    with pytest.raises(InputError, match=r"rows\.npy: not a whole \.npy file of numbers \("):
        import_features(place / "rows.npy", place / "store", CONFIG)


def test_a_file_cut_short(place, suffix):
    source = save(place / f"rows{suffix}", matrix())
    source.write_bytes(source.read_bytes()[:-300])
    with pytest.raises(InputError, match=rf"rows\{suffix}: (not a whole|does not hold)"):
        import_features(source, place / "store", CONFIG)


@pytest.mark.parametrize(
    ("known", "reported"),
    [
        ({"tokens": np.ones(10)}, r"tokens is of shape \(10,\); expected \(11,\)"),
        ({"norms": np.ones((11, 1))}, r"norms is of shape \(11, 1\)"),
        ({"rows": np.zeros(11, int)}, "rows must be whole numbers that differ"),
        ({"rows": np.arange(11.0)}, "rows must be whole numbers that differ"),
    ],
)
def test_values_that_do_not_fit_the_rows(place, known, reported):
    source = save(place / "rows.safetensors", matrix(), **known)
    with pytest.raises(InputError, match=reported):
        import_features(source, place / "store", CONFIG)


def test_a_shape_that_no_array_can_have(place):
    features = {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}
    rows = {"dtype": "I64", "shape": [1] * 70, "data_offsets": [4, 12]}
    header = json.dumps({"features": features, "rows": rows}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(12)
    (place / "rows.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=r"rows is of shape \(1, 1, .*; expected \(1,\)"):
        import_features(place / "rows.safetensors", place / "store", CONFIG)


def test_two_matrices_without_the_name(place):
    (place / "two.safetensors").write_bytes(to_bytes({"a": matrix(), "b": matrix()}))
    with pytest.raises(InputError, match=r'holds a, b; name the matrix "features"'):
        import_features(place / "two.safetensors", place / "store", CONFIG)


def test_places_that_do_not_fit(place):
    source, folder = save(place / "rows.npy", matrix()), store(place / "store")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(InputError, match=r"gone\.npy: no such file"):
        import_features(place / "gone.npy", place / "new", CONFIG)
    with pytest.raises(InputError, match=r"known are \.npy, \.safetensors, \.pt"):
        import_features(place / "rows.csv", place / "new", CONFIG)
    with pytest.raises(InputError, match=r"store: is not empty; give another folder"):
        import_features(source, folder, CONFIG)
    with pytest.raises(InputError, match=r"known are \.npy, \.safetensors, \.pt"):
        export_features(folder, place / "rows.csv")
    with pytest.raises(InputError, match=r"rows\.npy: exists; give another file"):
        export_features(folder, source)
    with pytest.raises(InputError, match=r"store\.json: no such file"):
        export_features(place, place / "out.npy")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_without_torch_the_way_out_is_told(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (place / "rows.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"rows\.pt: .pt files need PyTorch; pip install torch"):
        import_features(place / "rows.pt", place / "new", CONFIG)
    with pytest.raises(InputError, match=r"out\.pt: .pt files need PyTorch"):
        export_features(store(place / "store"), place / "out.pt")


def test_a_full_disk_leaves_nothing_behind(place, monkeypatch):
    folder = store(place / "store")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"disk full while writing .*out\.npy"):
        export_features(folder, place / "out.npy")
    assert [file.name for file in place.iterdir()] == ["store"]


# The script.


def test_script_goes_both_ways(place):
    source = save(place / "rows.npy", matrix())
    summary = exchange_features.run(source, place / "store", CONFIG)
    assert summary == f"{place / 'store'}: 11 rows of 29, 0 of them not finite"
    exchange_features.run(place / "store", place / "out.npy", CONFIG)
    np.testing.assert_array_equal(np.load(place / "out.npy"), open_store(place / "store").read()[:])
    with pytest.raises(InputError, match=r"no store\.json here; --source must be a store or a"):
        exchange_features.run(place, place / "other.npy", CONFIG)


def test_script_from_the_command_line(place):
    source = save(place / "rows.npy", matrix())
    command = [sys.executable, "-m", "experiments.exchange_features", "--dtype=int8"]
    done = subprocess.run(
        [*command, f"--source={source}", f"--destination={place / 'store'}"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("store: 11 rows of 29, 0 of them not finite\n")
    assert open_store(place / "store").dtype == "int8"


def test_script_refuses_an_unknown_flag():
    with pytest.raises(InputError, match=r"colour.*; the flags are --source=FILE"):
        parse_flags(exchange_features.USAGE, ["exchange_features.py", "--colour=red"])
