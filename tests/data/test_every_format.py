"""The data kit's rows have the same ids and tokens in every kind of file."""

import json

import numpy as np
import pytest

from g2is_jax.data.chat import ChatFormat
from g2is_jax.data.files import read_rows
from g2is_jax.data.tokenizer import load_tokenizer
from tests.support.dataset_hub import read_all, serving
from tests.support.every_format import FORMATS, lines, write_as


@pytest.fixture(scope="module")
def kit(shared_data):
    """The rows of the small pool, what is read of them as lines, and their tokens."""
    file = shared_data / "pool_small.jsonl"
    rows = [json.loads(line) for line in file.read_text().split("\n") if line]
    chat = ChatFormat(load_tokenizer(shared_data / "stories260K"), "auto")
    read = read_rows(file, "stop")
    return rows, read, chat, chat.encode_all(list(read.records), 512)


@pytest.mark.parametrize("kind", FORMATS)
def test_ids_and_tokens(kit, tmp_path, kind):
    rows, expected, chat, tokens = kit
    found = read_rows(write_as(kind, rows, tmp_path / "pool_small"), "stop")
    assert found.records.ids_N.tolist() == expected.records.ids_N.tolist()
    assert found.records.numbers_N.tolist() == expected.records.numbers_N.tolist()
    assert found.content == expected.content
    for one, other in zip(chat.encode_all(list(found.records), 512), tokens, strict=True):
        np.testing.assert_array_equal(one.tokens_T, other.tokens_T, strict=True)
        np.testing.assert_array_equal(one.supervised_T, other.supervised_T, strict=True)


@pytest.mark.parametrize("kind", FORMATS)
def test_made_ids(kit, tmp_path, kind):
    """Rows without ids of their own get those of their content."""
    rows = [{name: row[name] for name in ("messages", "source")} for row in kit[0][:50]]
    found = read_rows(write_as(kind, rows, tmp_path / "rows"), "stop").records
    expected = read_rows(write_as("lines", rows, tmp_path / "expected"), "stop").records
    assert found.ids_N.tolist() == expected.ids_N.tolist()
    assert [json.loads(line) for line in found.lines] == rows


def test_a_hub_id(kit, tmp_path):
    pytest.importorskip("datasets")
    rows, expected, *_ = kit
    with serving({"train.jsonl": lines(rows)}) as endpoint:
        (found,) = read_all(["hf://some/rows"], tmp_path, endpoint)
    assert found["ids"] == expected.records.ids_N.tolist()
