"""Adam's moments of an adapter, from the folder that another program left it in.

    optimizer.pt  of a Hugging Face Trainer's checkpoint: torch's AdamW, parameters by number
    optimizer.bin the same by name, as LESS's released code has it

Sharded states, and those of other optimisers, are refused by name.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from g2is_jax.model.adapters import tensor_name
from g2is_jax.model.build import Model
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.torch_files import load_tensors
from g2is_jax.training.optimizer import Moments, OptimizerConfig

FILES = ("optimizer.pt", "optimizer.bin")
SHARDED = {
    "global_step*": "DeepSpeed",
    "zero_to_fp32.py": "DeepSpeed",
    "optimizer_[0-9]*": "FSDP",
    "pytorch_model_fsdp_[0-9]*": "FSDP",
    "*_optim_states.pt": "DeepSpeed",
}
FIRST, SECOND = "exp_avg", "exp_avg_sq"
WAY_OUT = "take a kind without moments (--config.grads.kind=sgd, --config.grads.less_kind=sgd)"
# In the order of a block's modules, as transformers has it in every supported family.
ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def read_trainer_moments(
    folder: epath.Path, model: Model, optimizer: OptimizerConfig
) -> Moments | None:
    """Adam's moments in the folder of an adapter; None where it holds no optimiser's state.

    optimizer: the settings that they have to be of. InputError names a state that is sharded, of
    another optimiser or of other parameters.
    """
    for pattern, kind in SHARDED.items():
        if found := sorted(folder.glob(pattern)):
            raise InputError(
                f"{found[0]}: the optimiser's state is in shards of {kind}; save it whole "
                f"(one optimizer.pt), or remove them and {WAY_OUT}"
            )
    files = [folder / name for name in FILES if (folder / name).exists()]
    if not files:
        return None
    state, groups = _read(files[0])
    _check_settings(files[0], groups, optimizer)
    by_path = _by_path(files[0], state, groups, model)
    first, second = ({path: own[part] for path, own in by_path.items()} for part in (FIRST, SECOND))
    steps = {int(own["step"]) for own in by_path.values()}
    if len(steps) != 1:
        raise InputError(f"{files[0]}: its parameters are of steps {sorted(steps)}; give another")
    layout = model.adapter_layout
    return Moments(steps.pop(), layout.stacked(first), layout.stacked(second))


def _read(file: epath.Path) -> tuple[Mapping, Sequence[Mapping]]:
    """The state of each parameter, and the groups with their settings."""
    try:
        found = load_tensors(file, WAY_OUT)
        state, groups = found["state"], found["param_groups"]
        if not (isinstance(state, Mapping) and isinstance(groups, list) and state and groups):
            raise TypeError(f"{len(state)} states in {len(groups)} groups")
    except InputError:
        raise
    except Exception as error:  # of a damaged file it can be any
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise InputError(
            f"{file}: not the state of a torch optimiser ({reason}); save it again, or {WAY_OUT}"
        ) from error
    odd = next((own for own in state.values() if not {FIRST, SECOND, "step"} <= own.keys()), None)
    if odd is not None:
        raise InputError(
            f"{file}: holds {', '.join(map(str, odd))} of a parameter, not step, {FIRST} and "
            f"{SECOND} as Adam does; train with adamw_torch, or {WAY_OUT}"
        )
    return state, groups


def _check_settings(
    file: epath.Path, groups: Sequence[Mapping], optimizer: OptimizerConfig
) -> None:
    for group in groups:
        b1, b2 = group["betas"]
        for name, theirs in (("b1", b1), ("b2", b2), ("eps", group["eps"])):
            if theirs != getattr(optimizer, name):
                raise InputError(
                    f"{file}: moments of an Adam of {name} {theirs}; set warmup.{name} to that"
                )


def _by_path(file: epath.Path, state: Mapping, groups, model: Model) -> dict[str, dict[str, Any]]:
    """The state of each of the adapter's parameters, as float32 arrays."""
    names = _names(state, groups)
    wanted = {tensor_name(path): path for path in sorted(model.adapter_shapes)}
    if names is None:
        in_order = sorted(wanted, key=_place)
        names = dict(zip(_numbers(groups), in_order, strict=False))
    found: dict[str, dict[str, Any]] = {}
    for key, own in state.items():
        path = wanted.get(str(names.get(key)))
        if path is None or path in found:
            raise InputError(
                f"{file}: parameter {names.get(key, key)} is not one of the adapter's "
                f"{len(wanted)}; give the state of the adapter beside it, or {WAY_OUT}"
            )
        shapes = {tuple(own[part].shape) for part in (FIRST, SECOND)}
        if shapes != {tuple(model.adapter_shapes[path])}:
            raise InputError(
                f"{file}: parameter {key} is of shape {min(shapes)}, and {path} of "
                f"{tuple(model.adapter_shapes[path])}; the state is of another adapter"
            )
        arrays = {part: jnp.asarray(_array(own[part])) for part in (FIRST, SECOND)}
        found[path] = {"step": own["step"], **arrays}
    if len(found) != len(wanted):
        raise InputError(
            f"{file}: has the moments of {len(found)} of the adapter's {len(wanted)} parameters; "
            f"give the state of the adapter beside it, or {WAY_OUT}"
        )
    return found


def _names(state: Mapping, groups: Sequence[Mapping]) -> dict[Any, str] | None:
    """The PEFT name of each parameter by its key, where the file tells."""
    if all(isinstance(key, str) for key in state):
        return {key: _plain(key) for key in state}
    if all("param_names" in group for group in groups):
        names = itertools.chain(*(group["param_names"] for group in groups))
        return dict(zip(_numbers(groups), map(_plain, names), strict=True))
    return None


def _numbers(groups: Sequence[Mapping]) -> list[int]:
    return [number for group in groups for number in group["params"]]


def _plain(name: str) -> str:
    """The name without those of wrappers and of the adapter."""
    return re.sub(r"^(module\.|_orig_mod\.)+", "", name).replace(".default.", ".")


def _place(name: str) -> tuple:
    """Where a parameter stands among those of the model."""
    *_, layer, _, module, leaf, _ = name.split(".")
    return int(layer), ORDER.index(module), leaf


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().float().numpy()
