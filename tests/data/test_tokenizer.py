"""Tokenizers are read from a folder, without running its code; what is missing is named."""

import json
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
