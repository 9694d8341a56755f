"""Tokenizers are read from a folder, without running its code; what is missing is named."""

import json
import re
import shutil
import sys

import pytest

from g2is_jax.data.tokenizer import load_tokenizer
from g2is_jax.runs.errors import InputError
from tests.support.chats import save_bpe


def test_code_of_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    """Not even where a question whether to run it would be answered with yes."""
    folder = save_bpe(tmp_path / "checkpoint")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | own))
    (folder / "own.py").write_text(f"import os\n\nos.mkdir({str(tmp_path / 'trap')!r})\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(InputError, match=r"custom code .*put the tokenizer\.json"):
        load_tokenizer(folder)
    assert not (tmp_path / "trap").exists()


def relabel(folder, **settings):
    """Changes fields of a tokenizer's config."""
    file = folder / "tokenizer_config.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(before | settings))
    return folder


def words_apart(folder):
    """A tokenizer whose file splits at blanks, which Qwen2's class does not know of."""
    save_bpe(folder)
    file = folder / "tokenizer.json"
    raw = json.loads(file.read_text())
    raw["pre_tokenizer"]["use_regex"] = False
    splits = {"type": "WhitespaceSplit"}
    raw["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [splits, raw["pre_tokenizer"]]}
    file.write_text(json.dumps(raw))
    return folder


def test_tokenizer_that_its_class_reads_otherwise_than_its_file(tmp_path):
    folder = words_apart(tmp_path)
    load_tokenizer(relabel(folder, tokenizer_class="PreTrainedTokenizerFast"))
    relabel(folder, tokenizer_class="Qwen2TokenizerFast")
    with pytest.raises(InputError) as caught:
        load_tokenizer(folder)
    named = r"by the class Qwen2Tokenizer, its tokenizer\.json says .*; set \"tokenizer_class\" to"
    assert re.search(named, str(caught.value))
    assert str(caught.value).startswith(f"{folder}: transformers 5.")
    assert "\n" not in str(caught.value)


def test_first_word_where_the_config_sets_a_blank_before_it(tmp_path):
    """There transformers departs from the file as it is asked to."""
    folder = save_bpe(tmp_path)
    load_tokenizer(relabel(folder, tokenizer_class="GPT2TokenizerFast", add_prefix_space=True))
    words_apart(tmp_path)
    relabel(folder, tokenizer_class="Qwen2TokenizerFast", add_prefix_space=True)
    with pytest.raises(InputError, match="by the class Qwen2Tokenizer"):
        load_tokenizer(folder)


def test_limits_of_the_file_are_no_difference(tmp_path):
    folder = save_bpe(tmp_path)
    file = folder / "tokenizer.json"
    cut = {"max_length": 4, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    padded = {"strategy": {"Fixed": 90}, "direction": "Right", "pad_to_multiple_of": None,
              "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}  # fmt: skip
    for change in ({"truncation": cut}, {"padding": padded}):
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        assert load_tokenizer(folder).is_fast


def test_folder_without_usable_tokenizer(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="none: no such folder"):
        load_tokenizer(tmp_path / "none")
    with pytest.raises(InputError, match="no tokenizer here"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(InputError, match=r"only a tokenizer\.model, which needs sentencepiece"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="the tokenizer cannot be loaded") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_tokenizer_model_alone_is_explained(tmp_path, monkeypatch, shared_data):
    shutil.copy(shared_data / "stories260K" / "tokenizer.model", tmp_path)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(InputError, match="pip install sentencepiece"):
        load_tokenizer(tmp_path)
