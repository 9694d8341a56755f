"""Rows of one bit a value: the transform, what cosines become, and the way to disk and back."""

import numpy as np
import pytest
from etils import epath

from g2is_jax.features.bits import packed, rotated, sign_rows, unpacked
from g2is_jax.features.rows import quantised, unit_length
from g2is_jax.features.store import StoreConfig, StoreWriter, open_store


def test_the_rotation_keeps_products_and_is_a_hadamard_matrix_behind_signs():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5, 11)).astype(np.float32)
    turned = rotated(rows, 16)
    np.testing.assert_allclose(turned @ turned.T, rows @ rows.T, rtol=1e-5, atol=1e-5)
    matrix = rotated(np.eye(16, dtype=np.float32), 16) * 4
    np.testing.assert_allclose(np.abs(matrix), 1, atol=1e-6)
    # Row i of the natural order has entry (-1)^popcount(i & j); a sign of its own in front.
    hadamard = [[(-1) ** (i & j).bit_count() for j in range(16)] for i in range(16)]
    signs = matrix[:, 0]
    np.testing.assert_allclose(matrix * signs[:, None], hadamard, atol=1e-6)
    assert len(set(signs.tolist())) == 2


@pytest.mark.parametrize(("width", "expected"), [(3, 8), (8, 8), (37, 64), (64, 64)])
def test_eight_signs_to_a_byte(width, expected):
    rows = np.random.default_rng(1).normal(size=(6, width)).astype(np.float32)
    signs = sign_rows(rows)
    assert signs.shape == (6, expected)
    assert set(np.unique(signs)) == {-1, 1}
    assert packed(signs).shape == (6, expected // 8)
    np.testing.assert_array_equal(unpacked(packed(signs)), signs)


def test_cosines_of_signs():
    """2/pi asin(c), also where one value in thirty holds all of a row."""
    rng = np.random.default_rng(2)
    width, found, expected = 8192, [], []
    for cosine in (-0.9, -0.3, 0.0, 0.2, 0.7, 1.0):
        first, second = np.zeros((2, width), np.float32)
        first[rng.choice(width, 270, replace=False)] = rng.normal(size=270)
        second[rng.choice(width, 270, replace=False)] = rng.normal(size=270)
        first, second = unit_length(np.stack([first, second]))
        second = unit_length((second - (second @ first) * first)[None])[0]
        second = cosine * first + (1 - cosine**2) ** 0.5 * second
        signs, scales = quantised(np.stack([first, second]).astype(np.float32), "bits")
        one, other = signs * scales[:, None]
        found.append(one @ other)
        expected.append(2 / np.pi * np.arcsin(cosine))
    np.testing.assert_allclose(found, expected, atol=4 / width**0.5)
    assert found[-1] == pytest.approx(1, abs=1e-5)


def test_a_store_of_bits(tmp_path):
    """A zero row and one that is not finite are zero; the file holds an eighth of int8's bytes."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(7, 4096)).astype(np.float32)
    rows[2], rows[5] = 0, np.nan
    sizes = {}
    for dtype in ("bits", "int8"):
        folder = epath.Path(tmp_path / dtype)
        with StoreWriter(folder, np.arange(7), StoreConfig(dtype, 4)) as writer:
            writer.start([np.array([4, 0, 2, 6]), np.array([1, 5, 3])])
            for index, chunk in enumerate(([4, 0, 2, 6], [1, 5, 3])):
                writer.write(index, rows[chunk], np.ones(len(chunk)), np.ones(len(chunk)))
        sizes[dtype] = sum(file.stat().length for file in folder.glob("*.safetensors"))
    store = open_store(epath.Path(tmp_path / "bits"))
    found = store.read()
    assert (store.width, found.values_NP.dtype) == (4096, np.int8)
    np.testing.assert_array_equal(store.finite_N, np.arange(7) != 5)
    expected, scales = quantised(rows, "bits")
    for row in (0, 1, 3, 4, 6):
        np.testing.assert_array_equal(found[row], expected[row] * scales[row])
        assert np.linalg.norm(found[row]) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(found[np.array([2, 5])], 0)
    assert sizes["int8"] - sizes["bits"] == pytest.approx(7 * 4096 * 7 / 8, rel=0.05)
    blocks = np.empty((7, 4096), np.float32)
    store.read_into(blocks)
    np.testing.assert_array_equal(blocks, found[:])
