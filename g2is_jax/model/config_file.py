"""Reads a Hugging Face `config.json`: each field is used, has no effect, or is refused by name.

A field that the file leaves out has the default that transformers gives it.
"""

import json
from collections.abc import Iterable
from typing import Any

from etils import epath

from g2is_jax.model.config import RopeConfig, RopeScaling
from g2is_jax.runs.errors import InputError

# Notes, and settings of training, of generation or of transformers' own output: no row's logits
# depend on them. The ends of a reply are read with the tokenizer.
NO_EFFECT = {
    "_attn_implementation_autoset",
    "_name_or_path",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "is_llama_config",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
}
ROPE_FIELDS: dict[str, tuple[str, ...]] = {
    "default": (),
    "llama3": tuple(RopeScaling.__dataclass_fields__),
}


class Fields:
    """The values of one config file, with a record of the fields that have been read."""

    def __init__(self, raw: dict, file: str):
        self.raw, self.file = raw, file
        self.used = {"model_type", "architectures"}
        self.config = self._standard(raw)

    def _standard(self, raw: dict) -> Any:
        """Returns transformers' own reading, with its defaults."""
        from transformers import CONFIG_MAPPING

        try:
            return CONFIG_MAPPING[raw["model_type"]](**raw)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{self.file}: not a valid {raw['model_type']} config ({reason}); "
                "download the checkpoint again"
            ) from error

    def __getitem__(self, name: str) -> Any:
        self.used.add(name)
        return getattr(self.config, name)

    def only(self, name: str, *supported) -> None:
        """Refuses all other values of a field, if the file has it."""
        self.used.add(name)
        if name in self.raw and self.raw[name] not in supported:
            raise self.error(f"{name} = {self.raw[name]!r}", f"only {listed(supported)} is")

    def error(self, what: str, supported: str) -> InputError:
        """Returns the error for a value that no decoder here computes."""
        return InputError(f"{self.file}: {what} is not supported; {supported}")

    def check_all_used(self) -> None:
        """Refuses fields that were neither read nor known to have no effect."""
        unknown = [
            name
            for name, value in self.raw.items()
            if name not in self.used | NO_EFFECT and value is not None
        ]
        if unknown:
            raise InputError(
                f"{self.file}: {', '.join(sorted(unknown))}: not known for model_type "
                f"{self.raw['model_type']!r}, so the model may compute something else; "
                "if it does not matter, take it out of the file"
            )


def read_raw_config(folder: epath.Path) -> dict:
    """Returns the folder's `config.json`; InputError if it is absent or damaged."""
    file = folder / "config.json"
    if not file.exists():
        raise InputError(f"{file}: no such file; model.checkpoint must be a Hugging Face folder")
    return read_json_object(file, "download the checkpoint again")


def read_json_object(file: epath.Path, way_out: str) -> dict:
    """Returns the object in a JSON file; InputError with the way out if it holds anything else."""
    try:
        raw = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not valid JSON ({error}); {way_out}") from error
    if not isinstance(raw, dict):
        raise InputError(f"{file}: holds no JSON object; {way_out}")
    return raw


def read_rope(f: Fields) -> RopeConfig:
    """Returns the rotary embedding, from the fields of transformers 4 or 5.

    Version 4 writes `rope_theta` and `rope_scaling`, version 5 `rope_parameters`.
    """
    f.only("partial_rotary_factor", None, 1.0)
    rope = {key: value for key, value in f["rope_parameters"].items() if value is not None}
    if rope.get("partial_rotary_factor") == 1.0:
        del rope["partial_rotary_factor"]
    f.used |= {"rope_theta", "rope_scaling"}
    _check_versions_agree(f, rope)
    kind = rope["rope_type"]
    if kind not in ROPE_FIELDS:
        raise f.error(f"rope type {kind!r}", f"only {listed(ROPE_FIELDS)} are")
    known = {"rope_type", "type", "rope_theta", *ROPE_FIELDS[kind]}
    unknown = set(rope) - known
    if unknown:
        raise f.error(f"{', '.join(sorted(unknown))} of rope type {kind!r}", listed(known) + " are")
    theta = rope.get("rope_theta")
    if not (isinstance(theta, int | float) and 0 < theta < float("inf")):
        raise f.error(f"rope_theta = {theta!r}", "a number above 0 is")
    numbers = {name: rope[name] for name in ROPE_FIELDS[kind]}
    return RopeConfig(float(theta), RopeScaling(**numbers) if numbers else None)


def _check_versions_agree(f: Fields, rope: dict) -> None:
    """Refuses a file whose fields of transformers 4 contradict those of 5."""
    old = {**(f.raw.get("rope_scaling") or {}), "rope_theta": f.raw.get("rope_theta")}
    for key, value in old.items():
        if value is not None and rope.get(key, value) != value:
            raise f.error(f"{key} = {value!r} beside {rope[key]!r} in rope_parameters", "one is")


def listed(values: Iterable) -> str:
    """Returns the values in order, for a message."""
    return ", ".join(str(value) for value in sorted(values, key=str))
