"""Loads the tokenizer of a checkpoint folder, and finds the tokens that end a text with it."""

import importlib.metadata
import importlib.util
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etils import epath

from g2is_jax.runs.errors import InputError
from g2is_jax.runs.storage import in_object_store

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

# Blanks, digits, accents, code: where tokenizers differ.
PROBE = "The  answer is 12,345.\n\n  It's é 漢 😀:\tdef f(x):\n    return x"


def load_tokenizer(folder: epath.PathLike) -> "PreTrainedTokenizerBase":
    """Loads the fast tokenizer of a checkpoint folder, without reaching for the network.

    Code that the folder brings is never run, whatever its `auto_map` says.
    """
    path, name = epath.Path(folder), os.fspath(folder)
    local_data: Any = {"local_files_only": True, "trust_remote_code": False}
    _check_tokenizer_files(path, name)
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as copies:
        local = name
        if in_object_store(name):
            local = copies
            for file in path.iterdir():
                if file.suffix in (".json", ".model", ".txt", ".jinja"):
                    file.copy(epath.Path(local) / file.name)
        try:
            tokenizer = AutoTokenizer.from_pretrained(local, **local_data)
            difference = _difference(tokenizer, Path(local))
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(
                f"{name}: the tokenizer cannot be loaded ({type(error).__name__}: {reason}); "
                "put the tokenizer.json of the model's repository into the folder"
            ) from error
    if difference:
        raise InputError(f"{name}: {difference}")
    if not tokenizer.is_fast:
        raise InputError(
            f"{name}: the tokenizer is slow and gives no character offsets; "
            "put the tokenizer.json of the model's repository into the folder"
        )
    tokenizer.name_or_path = name
    return tokenizer


def _difference(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> str:
    """Returns how the tokenizer reads PROBE otherwise than its tokenizer.json; "" if it does not.

    transformers makes some tokenizers anew after their class, not after the file: labelled wrongly,
    they may lose every blank. Where the config sets `add_prefix_space` the first word may differ.
    """
    if not (folder / "tokenizer.json").exists() or not tokenizer.is_fast:
        return ""
    from tokenizers import Tokenizer

    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    raw.no_truncation()
    raw.no_padding()
    theirs = raw.encode(PROBE, add_special_tokens=False)
    batch = tokenizer(PROBE, add_special_tokens=False, return_offsets_mapping=True)
    word = PROBE.index(" ") if _sets_prefix_space(folder) else 0
    ours, wanted = (
        [token for token, (start, _) in zip(ids, offsets, strict=True) if start >= word]
        for ids, offsets in (
            (batch["input_ids"], batch["offset_mapping"]),
            (theirs.ids, theirs.offsets),
        )
    )
    if ours == wanted:
        return ""
    version = importlib.metadata.version("transformers")
    read, meant = (tokenizer.convert_ids_to_tokens(ids[:8]) for ids in (ours, wanted))
    return (
        f"transformers {version} reads a text as {read} by the class {type(tokenizer).__name__}, "
        f'its tokenizer.json says {meant}; set "tokenizer_class" to "PreTrainedTokenizerFast" in '
        "tokenizer_config.json, or install another transformers (tested: 5.24)"
    )


def _sets_prefix_space(folder: Path) -> bool:
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_bytes()) if file.exists() else {}
    return config.get("add_prefix_space") is not None


def _check_tokenizer_files(path: epath.Path, name: str) -> None:
    if not path.is_dir():
        raise InputError(f"{name}: no such folder; expected a Hugging Face checkpoint folder")
    found = {file.name for file in path.iterdir()}
    if not found & {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"}:
        raise InputError(
            f"{name}: no tokenizer here; put the model's tokenizer.json into the folder"
        )
    if found & {"tokenizer.json", "vocab.json", "vocab.txt"}:
        return
    if importlib.util.find_spec("sentencepiece") is None:  # transformers would name tiktoken
        raise InputError(
            f"{name}: only a tokenizer.model, which needs sentencepiece to be read; "
            "pip install sentencepiece, or put the model's tokenizer.json into the folder"
        )


def end_of_sequence(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Returns the text of the tokenizer's end token; InputError if it is not read as that token."""
    eos = tokenizer.eos_token
    ids = [] if eos is None else tokenizer(f"a{eos}", add_special_tokens=False)["input_ids"]
    if not ids or ids[-1] != tokenizer.eos_token_id:
        raise InputError(
            f"{tokenizer.name_or_path}: the tokenizer has no end-of-sequence token; "
            'set "eos_token" in tokenizer_config.json'
        )
    return eos


def configured_ends(folder: str) -> set[int]:
    """Reads the ids at which the checkpoint's own config ends generation; none without config."""
    files = [epath.Path(folder) / name for name in ("generation_config.json", "config.json")]
    there = [file for file in files if folder and file.exists()]
    if not there:
        return set()
    path = there[0]  # as transformers has it: the model's own only where the other is not
    way_out = (
        "copy the file again from the model's repository, or remove it to stop at the tokenizer's "
        "own end tokens alone"
    )
    try:
        ends = json.loads(path.read_bytes()).get("eos_token_id")
    except (ValueError, AttributeError, RecursionError) as error:  # no JSON, or no object
        raise InputError(f"{os.fspath(path)}: not a JSON object; {way_out}") from error
    if not isinstance(ends, list):
        ends = [] if ends is None else [ends]
    if any(type(end) is not int for end in ends):
        raise InputError(
            f"{os.fspath(path)}: eos_token_id is no token's number, nor a list of them; {way_out}"
        )
    return set(ends)
