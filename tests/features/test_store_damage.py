"""A store is whole, or what is wrong with it is refused and redone."""

import numpy as np
import pytest

from g2is_jax.features import store_chunk
from g2is_jax.features.store import open_store
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.tensors import from_bytes
from tests.support.small_store import CHUNKS, OTHER_CHUNKS, ROWS, contents, features, write

pytestmark = pytest.mark.usefixtures("_no_thread_is_left")


def test_an_unfinished_store_is_refused(folder):
    write(folder, stop_after=2)
    with pytest.raises(InputError, match=r"chunk-00002.*delete .* and run the same command"):
        open_store(folder)


def truncate(folder):
    file = folder / "chunk-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def alter(folder):
    file = folder / "chunk-00001.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))


def empty(folder):
    (folder / "chunk-00001.safetensors").write_bytes(b"")


def remove(folder):
    (folder / "chunk-00001.safetensors").unlink()


def unmark(folder):
    (folder / "chunk-00001.done").unlink()


def garble_the_mark(folder):
    (folder / "chunk-00001.done").write_bytes(b"\xff\xfe\x00")


def take_from_the_first_edition(folder):
    """Whole and marked, but from before it was noted which rows are finite."""
    tensors = from_bytes((folder / "chunk-00001.safetensors").read_bytes())
    del tensors["finite"]
    store_chunk.write_chunk(folder, 1, tensors)


def swap_in_another_chunk(folder):
    """Whole and marked, but the rows of chunk 2: they would come back twice."""
    for kind in ("safetensors", "done"):
        (folder / f"chunk-00002.{kind}").copy(folder / f"chunk-00001.{kind}", overwrite=True)


def swap_in_another_dtype(folder):
    write(folder / "16", dtype="bfloat16")
    for kind in ("safetensors", "done"):
        (folder / f"16/chunk-00001.{kind}").copy(folder / f"chunk-00001.{kind}", overwrite=True)
    (folder / "16").rmtree()


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        alter,
        empty,
        remove,
        unmark,
        garble_the_mark,
        take_from_the_first_edition,
        swap_in_another_chunk,
        swap_in_another_dtype,
    ],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_chunk_is_refused_and_redone(folder, damage):
    write(folder)
    whole = contents(folder)
    damage(folder)
    with pytest.raises(InputError, match=r"chunk-00001\.safetensors: the chunk is missing, dam"):
        open_store(folder)
    assert write(folder) == [1]
    assert contents(folder) == whole


def test_chunks_of_another_layout_are_refused_and_redone(folder):
    """Other batches, as after a change of batch_tokens between a kill and the rerun."""
    write(folder, CHUNKS)
    write(folder, OTHER_CHUNKS, stop_after=0)
    with pytest.raises(InputError, match=r"chunk-00000\.safetensors"):
        open_store(folder)
    assert write(folder, OTHER_CHUNKS) == [0, 1]
    write(folder / "fresh", OTHER_CHUNKS)
    fresh = contents(folder / "fresh")
    (folder / "fresh").rmtree()
    assert contents(folder) == fresh  # the third chunk is gone
    np.testing.assert_array_equal(open_store(folder).rows_N, ROWS)


def test_the_same_rows_in_another_order_are_redone(folder):
    write(folder, CHUNKS)
    assert write(folder, [CHUNKS[0], CHUNKS[1][::-1], CHUNKS[2]]) == [1]


def test_a_chunk_of_another_width_is_refused(folder):
    write(folder)
    write(folder / "narrow", features_NP=features()[:, :7])
    for kind in ("safetensors", "done"):
        (folder / f"narrow/chunk-00001.{kind}").copy(folder / f"chunk-00001.{kind}", overwrite=True)
    with pytest.raises(InputError, match=r"chunk-00001\.safetensors: the chunk is missing, dam"):
        open_store(folder)


def test_a_folder_without_a_store_is_refused(folder):
    with pytest.raises(InputError, match=r"store\.json: no such file"):
        open_store(folder)


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        pytest.param("[" * 99_999, "RecursionError", id="deep"),
        ('{"dtype": "int8", "rows": 9, "chunks": ["0"]}', "KeyError: 'width'"),
        ('{"dtype": "int8", "rows": 9, "chunks": [], "width": 3}', "9 rows of int8 in 0 chunks"),
        ('{"dtype": "int4", "rows": 9, "chunks": ["0"], "width": 3}', "9 rows of int4 in 1"),
    ],
)
def test_a_damaged_store_json_is_named(folder, content, reported):
    write(folder)
    whole = contents(folder)
    (folder / "store.json").write_text(content)
    with pytest.raises(
        InputError, match=rf"store\.json: not that of a .*{reported}.*; delete .*store"
    ):
        open_store(folder)
    assert write(folder) == []
    assert contents(folder) == whole
