"""Safetensors files: read by the library what we write, and the reverse; damaged ones named."""

import contextlib
import json
import os
import tracemalloc
import weakref
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from etils import epath
from safetensors import safe_open

from g2is_jax.runs import tensors as tensors_module
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.tensors import (
    DTYPES,
    from_bytes,
    read_tensor,
    read_tensors,
    tensor_table,
    to_bytes,
    write_tensors,
)

MIB = 2**20


def arrays(dtype) -> dict[str, np.ndarray]:
    values = np.random.default_rng(0).integers(0, 100, (5, 7))
    return {
        "plain": values.astype(dtype),
        "transposed": values.T.astype(dtype),
        "strided": values.astype(dtype)[::2, 1:],
        "scalar": np.asarray(3, dtype),
        "empty": np.zeros((0, 4), dtype),
    }


def every_dtype() -> dict[str, np.ndarray]:
    """Odd lengths, and names that JSON has to escape."""
    rng = np.random.default_rng(1)
    return {
        f'{name}.é"\n{part}': rng.integers(0, 2, (3, part)).astype(dtype)
        for part in (5, 1)
        for name, dtype in DTYPES.items()
    }


def write(file, tensors) -> epath.Path:
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    write_tensors(epath.Path(file), shapes, tensors.__getitem__)
    return epath.Path(file)


def assert_same(read, tensors):
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        np.testing.assert_array_equal(read[name], tensor)
        assert read[name].shape == tensor.shape


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_round_trip(tmp_path, dtype):
    tensors = arrays(dtype)
    assert_same(from_bytes(to_bytes(tensors)), tensors)
    assert_same(read_tensors(write(tmp_path / "a.safetensors", tensors)), tensors)


@pytest.mark.parametrize("tensors", [{}, arrays(np.float32), every_dtype()], ids=len)
def test_same_bytes_as_the_library(tmp_path, tensors):
    """So it reads what we write, and we what it writes."""
    whole = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    expected = safetensors.numpy.save(whole, metadata={"format": "pt"})
    assert to_bytes(tensors) == expected
    assert write(tmp_path / "a.safetensors", tensors).read_bytes() == expected
    assert_same(from_bytes(expected), tensors)


def test_library_reads_what_we_write(tmp_path):
    tensors = arrays(np.float32) | {"big": np.random.default_rng(2).random((1009, 1013))}
    file = write(tmp_path / "a.safetensors", tensors)
    assert_same(safetensors.numpy.load_file(file), tensors)
    with safe_open(file, framework="np") as opened:
        assert opened.metadata() == {"format": "pt"}
        np.testing.assert_array_equal(opened.get_slice("big")[7:11], tensors["big"][7:11])
    for entry in tensor_table(file).values():
        assert entry.begin % entry.dtype.itemsize == 0


def test_equal_arrays_give_equal_bytes():
    """Whatever their memory order; resuming compares bytes."""
    assert to_bytes(arrays(np.float32)) == to_bytes(arrays(np.float32))
    tensors = {name: np.asarray(tensor, order="F") for name, tensor in arrays(np.float32).items()}
    assert to_bytes(tensors) == to_bytes(arrays(np.float32))


def test_torch_reads_it(torch):
    """Bfloat16 and the mark of PyTorch's layout included."""
    from safetensors.torch import load

    data = to_bytes(arrays(ml_dtypes.bfloat16))
    read = load(data)["transposed"]
    assert read.dtype == torch.bfloat16
    np.testing.assert_array_equal(read.float().numpy(), arrays(np.float32)["transposed"])
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}


ROWS = [slice(2, 5), slice(0, 0), slice(3, None), slice(-2, None), slice(4, 99), slice(5, 2)]


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_rows(tmp_path, rows, dtype):
    """Rows of a tensor between others."""
    tensors = {name: np.arange(7 * 3 * 2).reshape(7, 3, 2) + i for i, name in enumerate("abc")}
    tensors = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    file = write(tmp_path / "a.safetensors", tensors)
    read = read_tensor(file, tensor_table(file)["b"], rows)
    assert_same({"b": read}, {"b": tensors["b"][rows]})
    with pytest.raises(ValueError, match="not contiguous"):
        read_tensor(file, tensor_table(file)["b"], slice(0, 4, 2))


def test_reading_holds_one_tensor(tmp_path):
    """The memory of the tensor itself and no more, and of some rows only theirs."""
    tensors = {name: np.full((8, MIB // 4), i, np.float32) for i, name in enumerate("abc")}
    file = write(tmp_path / "a.safetensors", tensors)
    table = tensor_table(file)
    for rows, held in ((None, 8 * MIB), (slice(2, 4), 2 * MIB)):
        tracemalloc.start()
        read = read_tensor(file, table["b"], rows)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        np.testing.assert_array_equal(read, tensors["b"][rows or slice(None)])
        assert held <= peak < held + MIB


def test_remote_file(tmp_path, monkeypatch):
    """A stream without readinto, whose reads come back short: in pieces, never copied whole."""
    monkeypatch.setattr(tensors_module, "READ_BYTES", 20)
    tensors, asked = arrays(np.float32), []
    file = write(tmp_path / "a.safetensors", tensors)

    @contextlib.contextmanager
    def remote_open(mode):
        with file.open(mode) as stream:

            def read(size):
                asked.append(size)
                return stream.read(min(size, 13))

            yield SimpleNamespace(seek=stream.seek, read=read)

    remote = SimpleNamespace(open=remote_open)
    read = {name: read_tensor(remote, entry) for name, entry in tensor_table(file).items()}
    assert_same(read, tensors)
    assert max(asked) == 20


def test_writing_holds_one_tensor(tmp_path):
    """Each tensor is produced once, when the one before it is written and gone."""
    made, alive = [], []

    def produce(name):
        alive.append([old for old in made if old() is not None])
        tensor = np.full((1, MIB // 4), len(made), np.float32)
        made.append(weakref.ref(tensor))
        return tensor

    shapes = {f"x{i}": ((1, MIB // 4), np.dtype(np.float32)) for i in range(6)}
    tracemalloc.start()
    write_tensors(epath.Path(tmp_path / "a.safetensors"), shapes, produce)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert alive == [[]] * 6
    assert peak < 2 * MIB
    read = read_tensors(epath.Path(tmp_path / "a.safetensors"))
    assert [float(read[f"x{i}"][0, -1]) for i in range(6)] == [0, 1, 2, 3, 4, 5]


FAULTS = {
    "produce": "no b",
    "shape": r"tensor b: announced as float32 \(2, 3\), produced as float32 \(3, 2\)",
    "dtype": "produced as float16",
    "rename": "division by zero",
    "full": r"disk full while writing .*a\.safetensors",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch, fault):
    """And no leftover beside it."""
    file = write(tmp_path / "a.safetensors", arrays(np.float32))
    before = file.read_bytes()

    def produce(name):
        assert len(list(tmp_path.iterdir())) == 2
        if name == "b" and fault in ("produce", "full"):
            raise OSError(28, os.strerror(28)) if fault == "full" else RuntimeError("no b")
        tensor = np.zeros((2, 3), np.float32)
        return {"b shape": tensor.T, "b dtype": tensor.astype("f2")}.get(f"{name} {fault}", tensor)

    if fault == "rename":
        monkeypatch.setattr(type(file), "replace", lambda *_: 1 / 0)
    with pytest.raises(Exception, match=FAULTS[fault]) as raised:
        write_tensors(file, {name: ((2, 3), np.dtype(np.float32)) for name in "ab"}, produce)
    assert isinstance(raised.value, InputError) == (fault == "full")
    assert file.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_dtype_without_a_name(tmp_path):
    with pytest.raises(ValueError, match="tensor x: safetensors files have no dtype complex128"):
        write(tmp_path / "a.safetensors", {"x": np.zeros(2, complex)})


@pytest.mark.parametrize("kept", [0, 7, 40, -1])
def test_truncated(tmp_path, kept):
    data = to_bytes(arrays(np.float32))[:kept]
    with pytest.raises(ValueError, match="too few" if kept in (0, 7) else r"\S"):
        from_bytes(data)
    file = epath.Path(tmp_path / "a.safetensors")
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.safetensors: not a whole safetensors file \(.+\)"):
        read_tensors(file)


def file_of(file, header, data: bytes) -> epath.Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return epath.Path(file)


def entry(begin, end, shape=(2,), dtype="U8"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


HOLE = "tensor y begins at byte"
DAMAGED = {
    "not JSON": (b"{", "unreadable header, JSONDecodeError"),
    "not text": (b"\xff\xfe", "unreadable header, UnicodeDecodeError"),
    "no header": ([], "unreadable header, TypeError"),
    "deep": (b"[" * 100_000, "unreadable header, RecursionError"),
    "no shape": ({"x": {"dtype": "U8"}}, "unreadable header, KeyError"),
    "negative": ({"x": entry(0, 4, (-2, -2))}, "unreadable header, ValueError: tensor x"),
    "fractions": ({"x": entry(0.0, 4, (4,))}, "unreadable header, ValueError: tensor x"),
    "text shape": ({"x": entry(0, 4, "4")}, "unreadable header, ValueError: tensor x"),
    "list dtype": ({"x": entry(0, 4, (4,), [])}, "unreadable header, ValueError: tensor x"),
    "size": ({"x": entry(0, 4, (3,))}, r"tensor x, U8 \(3,\), has 4 bytes"),
    "reversed": ({"x": entry(4, 2)}, r"tensor x, U8 \(2,\), has -2 bytes"),
    "hole": ({"x": entry(0, 1, (1,)), "y": entry(2, 4)}, f"{HOLE} 2, not at 1"),
    "overlap": ({"x": entry(0, 2), "y": entry(1, 3)}, f"{HOLE} 1, not at 2"),
    "late": ({"y": entry(2, 4)}, f"{HOLE} 2, not at 0"),
    "truncated": (
        {"x": entry(0, 2), "y": entry(2, 5, (3,))},
        r"it has \d+ bytes and should have \d+",
    ),
    "trailing": ({"x": entry(0, 2)}, r"it has \d+ bytes and should have \d+"),
}


@pytest.mark.parametrize(("header", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_damaged(tmp_path, header, reason):
    """Found in the header alone; the library refuses each of them too."""
    file = file_of(tmp_path / "a.safetensors", header, b"abcd")
    with pytest.raises(InputError, match=rf"/a\.safetensors: not a whole .* \({reason}.*\); copy"):
        tensor_table(file)
    with pytest.raises(ValueError, match=reason):
        from_bytes(file.read_bytes())
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(file.read_bytes())


@pytest.mark.parametrize("length", [9, 100_000_001, 2**63])
def test_absurd_header_length(tmp_path, length):
    """Refused before any memory is set aside for it (a sparse file holds the second one)."""
    file = epath.Path(tmp_path / "a.safetensors")
    file.write_bytes(length.to_bytes(8, "little") + b"{}" + bytes(6))
    if length == 100_000_001:
        os.truncate(file, 200_000_000)
    tracemalloc.start()
    with pytest.raises(InputError, match=rf"a\.safetensors: .*a header of {length} bytes"):
        tensor_table(file)
    assert tracemalloc.get_traced_memory()[1] < MIB
    tracemalloc.stop()


def test_file_cut_after_its_table_was_read(tmp_path):
    file = write(tmp_path / "a.safetensors", arrays(np.float32))
    table = tensor_table(file)
    os.truncate(file, max(entry.end for entry in table.values()) - 3)
    last = max(table.values(), key=lambda entry: entry.end)
    with pytest.raises(InputError, match=r"a\.safetensors: .*\(it ends 3 bytes early\)"):
        read_tensor(file, last)


def test_unsupported_dtype(tmp_path):
    file = file_of(tmp_path / "a.safetensors", {"x": entry(0, 2, (4,), "F4")}, b"ab")
    with pytest.raises(InputError, match=r"a\.safetensors: tensor x is of dtype 'F4'; only U64, "):
        tensor_table(file)
    with pytest.raises(ValueError, match="tensor x is of dtype 'F4'"):
        from_bytes(file.read_bytes())
