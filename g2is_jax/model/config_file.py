"""The fields of a Hugging Face `config.json`: each is read, has no effect, or is refused by name.

What the file leaves out is what transformers says it is.
"""

import json
from collections.abc import Iterable
from typing import Any

from etils import epath

from g2is_jax.model.config import RopeConfig, RopeScaling
from g2is_jax.runs.errors import InputError

# Notes, and settings of training, of generation or of transformers' own output: the logits of a
# given row do not depend on them. The ends of a reply are read with the tokenizer.
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
    """The values of one config file, and which of its fields have been read."""

    def __init__(self, raw: dict, file: str):
        self.raw, self.file = raw, file
        self.used = {"model_type", "architectures"}
        self.config = self._standard(raw)

    def _standard(self, raw: dict) -> Any:
        """transformers' own reading, with its defaults."""
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
        """Refuse any other value of this field, if the file has it."""
        self.used.add(name)
        if name in self.raw and self.raw[name] not in supported:
            raise self.error(f"{name} = {self.raw[name]!r}", f"only {listed(supported)} is")

    def error(self, what: str, supported: str) -> InputError:
        return InputError(f"{self.file}: {what} is not supported; {supported}")

    def check_all_used(self) -> None:
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
    """The folder's `config.json`; InputError if it is absent or damaged."""
    file = folder / "config.json"
    if not file.exists():
        raise InputError(f"{file}: no such file; model.checkpoint must be a Hugging Face folder")
    try:
        raw = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{file}: not valid JSON ({error}); download the checkpoint again"
        ) from error
    if not isinstance(raw, dict):
        raise InputError(f"{file}: holds no JSON object; download the checkpoint again")
    return raw


def read_rope(f: Fields) -> RopeConfig:
    """From transformers 4's `rope_theta` and `rope_scaling`, or 5's `rope_parameters`."""
    f.only("partial_rotary_factor", None, 1.0)
    given = {key: value for key, value in f["rope_parameters"].items() if value is not None}
    if given.get("partial_rotary_factor") == 1.0:
        del given["partial_rotary_factor"]
    f.used |= {"rope_theta", "rope_scaling"}
    _check_said_once(f, given)
    kind = given["rope_type"]
    if kind not in ROPE_FIELDS:
        raise f.error(f"rope type {kind!r}", f"only {listed(ROPE_FIELDS)} are")
    known = {"rope_type", "type", "rope_theta", *ROPE_FIELDS[kind]}
    unknown = set(given) - known
    if unknown:
        raise f.error(f"{', '.join(sorted(unknown))} of rope type {kind!r}", listed(known) + " are")
    theta = given.get("rope_theta")
    if not (isinstance(theta, int | float) and 0 < theta < float("inf")):
        raise f.error(f"rope_theta = {theta!r}", "a number above 0 is")
    numbers = {name: given[name] for name in ROPE_FIELDS[kind]}
    return RopeConfig(float(theta), RopeScaling(**numbers) if numbers else None)


def _check_said_once(f: Fields, rope: dict) -> None:
    """The file may say it in both versions' fields, if it says the same."""
    old = {**(f.raw.get("rope_scaling") or {}), "rope_theta": f.raw.get("rope_theta")}
    for key, value in old.items():
        if value is not None and rope.get(key, value) != value:
            raise f.error(f"{key} = {value!r} beside {rope[key]!r} in rope_parameters", "one is")


def listed(values: Iterable) -> str:
    return ", ".join(str(value) for value in sorted(values, key=str))
