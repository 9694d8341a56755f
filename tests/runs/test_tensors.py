"""Named arrays to safetensors bytes and back, in every dtype, and damaged files named."""

import json

import ml_dtypes
import numpy as np
import pytest
from etils import epath

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.tensors import DTYPES, from_bytes, read_tensors, to_bytes


def arrays(dtype) -> dict[str, np.ndarray]:
    values = np.random.default_rng(0).integers(0, 100, (5, 7))
    return {
        "plain": values.astype(dtype),
        "transposed": values.T.astype(dtype),
        "strided": values.astype(dtype)[::2, 1:],
        "scalar": np.asarray(3, dtype),
        "empty": np.zeros((0, 4), dtype),
    }


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_round_trip(dtype):
    tensors = arrays(dtype)
    read = from_bytes(to_bytes(tensors))
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == dtype
        np.testing.assert_array_equal(read[name], tensor)
        assert read[name].shape == tensor.shape


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


@pytest.mark.parametrize("kept", [0, 7, 40, -1])
def test_truncated(tmp_path, kept):
    data = to_bytes(arrays(np.float32))[:kept]
    with pytest.raises(ValueError, match=r"\S"):
        from_bytes(data)
    file = epath.Path(tmp_path / "a.safetensors")
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.safetensors: not a whole safetensors file \(.+\)"):
        read_tensors(file)


def test_unsupported_dtype():
    header = json.dumps({"x": {"dtype": "F8_E5M2", "shape": [2], "data_offsets": [0, 2]}}).encode()
    data = len(header).to_bytes(8, "little") + header + b"ab"
    with pytest.raises(ValueError, match=r"dtype 'F8_E5M2' are not supported"):
        from_bytes(data)
