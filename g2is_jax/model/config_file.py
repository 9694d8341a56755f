"""Reads a Hugging Face `config.json`: each field is used, has no effect, or is refused by name.

A field that the file leaves out has the default that transformers gives it. One that transformers'
own model does not act on cannot change it: a note says that it is passed over.
"""

import copy
import json
import math
from collections.abc import Iterable
from typing import Any

from etils import epath

from g2is_jax.model.config import LinearScaling, Llama3Scaling, RopeConfig, YarnScaling
from g2is_jax.model.config_use import fields_acted_on
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
# transformers acts on these, and computes the same logits whatever they are: how attention is
# computed, memory, other heads. Quantised weights are refused where they are read.
SAME_LOGITS = {
    "_attn_implementation",
    "_attn_implementation_internal",
    "attn_implementation",
    "auto_map",
    "distributed_config",
    "gradient_checkpointing",
    "name_or_path",
    "num_labels",
    "quantization_config",
    "sep_token_id",
    "tie_last_hidden_states",
}
KINDS = ("full_attention", "sliding_attention")  # of layers
# The fields of each type of rope scaling that a file must have, and those that it may have.
ROPE_FIELDS: dict[str, tuple[set[str], set[str]]] = {
    "default": (set(), set()),
    "linear": (set(LinearScaling.__dataclass_fields__), set()),
    "llama3": (set(Llama3Scaling.__dataclass_fields__), set()),
    "yarn": (
        {"factor", "original_max_position_embeddings"},
        {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    ),
}
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = ["adapter_model.safetensors", "adapter_model.bin"]


class Fields:
    """The values of one config file, with a record of the fields that have been read.

    notes: lines on the fields that are passed over.
    """

    def __init__(self, raw: dict, file: str):
        self.raw, self.file = raw, file
        self.notes: list[str] = []
        self.used = {"model_type", "architectures"}
        self.config = self._standard(raw)

    def _standard(self, raw: dict) -> Any:
        """Returns transformers' own reading, with its defaults."""
        from transformers import CONFIG_MAPPING

        try:
            return CONFIG_MAPPING[raw["model_type"]](**copy.deepcopy(raw))  # it fills in
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

    def idle(self, name: str, *values) -> None:
        """Passes over these values of a field without a note."""
        if self.raw.get(name) in values:
            self.used.add(name)

    def error(self, what: str, supported: str) -> InputError:
        """Returns the error for a value that no decoder here computes."""
        return InputError(f"{self.file}: {what} is not supported; {supported}")

    def check_all_used(self) -> None:
        """Refuses fields that transformers acts on and that were not read; notes all others."""
        left = [
            name
            for name, value in self.raw.items()
            if name not in self.used | NO_EFFECT and value is not None
        ]
        passed_over = [name for name in left if name in SAME_LOGITS or not self._acts_on(name)]
        unknown = sorted(set(left) - set(passed_over))
        if unknown:
            raise InputError(
                f"{self.file}: {', '.join(unknown)}: not known for model_type "
                f"{self.raw['model_type']!r}, and transformers acts on it, so the model may "
                "compute something else; if it does not matter, take it out of the file"
            )
        if passed_over:
            self.notes.append(
                f"{self.file}: {listed(passed_over)}: passed over, as it does not change what "
                f"transformers' {self.raw['model_type']} computes"
            )

    def _acts_on(self, name: str) -> bool:
        try:
            return name in fields_acted_on(type(self.config))
        except OSError:  # transformers without its source
            return True


def read_raw_config(folder: epath.Path) -> dict:
    """Returns the folder's `config.json`; InputError if it is absent or damaged."""
    file = folder / "config.json"
    if not file.exists():
        if is_adapter(folder):
            raise InputError(f"{folder}: {adapter_way_out(folder)}")
        raise InputError(f"{file}: no such file; model.checkpoint must be a Hugging Face folder")
    return read_json_object(file, "download the checkpoint again")


def is_adapter(folder: epath.Path) -> bool:
    """Tells whether a folder holds an adapter's files."""
    return any((folder / name).exists() for name in (ADAPTER, *ADAPTER_WEIGHTS))


def adapter_way_out(folder: epath.Path) -> str:
    """Returns what to do with the folder of an adapter that is given as a checkpoint."""
    there = (folder / ADAPTER).exists()
    raw = read_json_object(folder / ADAPTER, "download the adapter again") if there else {}
    base = raw.get("base_model_name_or_path") or "BASE"
    stored = [name for name in ADAPTER_WEIGHTS if (folder / name).exists()]
    first = ""
    if stored == ADAPTER_WEIGHTS[1:]:
        first = f"save its {stored[0]} as {ADAPTER_WEIGHTS[0]} with PEFT, and "
    return (
        f"an adapter of {base}, not a whole model; {first}merge it into its base first: python -m "
        f"experiments.merge_adapter --checkpoint={base} --adapter={folder} --output=FOLDER"
    )


def read_json_object(file: epath.Path, way_out: str) -> dict:
    """Returns the object in a JSON file; InputError with the way out if it holds anything else."""
    try:
        raw = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not valid JSON ({error}); {way_out}") from error
    if not isinstance(raw, dict):
        raise InputError(f"{file}: holds no JSON object; {way_out}")
    return raw


def read_ropes(f: Fields) -> dict[str, RopeConfig]:
    """Returns the rotary embedding of each kind of layer, from the fields of transformers 4 or 5.

    Version 4 writes `rope_theta` and `rope_scaling`, version 5 `rope_parameters`; some families'
    have an embedding for each kind of layer.
    """
    f.only("partial_rotary_factor", None, 1.0)
    f.used |= {"rope_theta", "rope_scaling"}
    parameters = f["rope_parameters"]
    if not set(KINDS) & set(parameters):
        _check_versions_agree(f, parameters)
        return dict.fromkeys(KINDS, _rope(f, parameters))
    if {key for key, value in parameters.items() if isinstance(value, dict)} != set(KINDS):
        raise f.error(f"rope_parameters of {listed(parameters)}", f"those of {listed(KINDS)} are")
    _check_versions_agree(f, parameters["full_attention"])
    for kind in KINDS:
        if parameters[kind].get("truncate", True) is not True:  # transformers truncates even so
            raise f.error(f"truncate of rope_parameters of {kind}", "only True is")
    return {kind: _rope(f, parameters[kind]) for kind in KINDS}


def _rope(f: Fields, parameters: dict) -> RopeConfig:
    given = {key: value for key, value in parameters.items() if value is not None}
    rope = given | {key: parameters[key] for key in ("truncate",) if key in parameters}
    if rope.get("partial_rotary_factor") == 1.0:
        del rope["partial_rotary_factor"]
    kind = rope["rope_type"]
    if kind not in ROPE_FIELDS:
        raise f.error(f"rope type {kind!r}", f"only {listed(ROPE_FIELDS)} are")
    needed, optional = ROPE_FIELDS[kind]
    known = {"rope_type", "type", "rope_theta"} | needed | optional
    unknown = set(rope) - known
    if unknown:
        raise f.error(f"{listed(unknown)} of rope type {kind!r}", listed(known) + " are")
    if needed - set(rope):
        raise f.error(f"rope type {kind!r} without {listed(needed - set(rope))}", "with it, it is")
    for name in set(rope) - {"rope_type", "type", "truncate"}:
        least = 1 if name == "rope_theta" else 0
        number = isinstance(rope[name], int | float) and not isinstance(rope[name], bool)
        if not (number and least < rope[name] < float("inf")):
            raise f.error(f"{name} = {rope[name]!r}", f"a number above {least} is")
    return RopeConfig(float(rope["rope_theta"]), _scaling(kind, rope))


def _scaling(kind: str, rope: dict) -> LinearScaling | Llama3Scaling | YarnScaling | None:
    """Returns the scaling, with transformers' defaults in place of fields that are left out."""
    if kind == "default":
        return None
    if kind == "yarn":
        return YarnScaling(
            rope["factor"],
            _attention_factor(rope),
            rope.get("beta_fast", 32),
            rope.get("beta_slow", 1),
            rope["original_max_position_embeddings"],
            bool(rope.get("truncate", True)),
        )
    numbers = {name: rope[name] for name in ROPE_FIELDS[kind][0]}
    return Llama3Scaling(**numbers) if kind == "llama3" else LinearScaling(**numbers)


def _attention_factor(rope: dict) -> float:
    """Returns YaRN's factor of cosine and sine: the file's, or one that grows with `factor`."""
    if "attention_factor" in rope:
        return rope["attention_factor"]
    growth = 0.1 * math.log(max(rope["factor"], 1))
    if "mscale" in rope and "mscale_all_dim" in rope:
        return (1 + growth * rope["mscale"]) / (1 + growth * rope["mscale_all_dim"])
    return 1 + growth


def _check_versions_agree(f: Fields, rope: dict) -> None:
    """Refuses a file whose fields of transformers 4 contradict those of 5."""
    old = {**(f.raw.get("rope_scaling") or {}), "rope_theta": f.raw.get("rope_theta")}
    for key, value in old.items():
        if value is not None and rope.get(key, value) != value:
            raise f.error(f"{key} = {value!r} beside {rope[key]!r} in rope_parameters", "one is")


def listed(values: Iterable) -> str:
    """Returns the values in order, for a message."""
    return ", ".join(str(value) for value in sorted(values, key=str))
