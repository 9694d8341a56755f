"""What each backend is good at: the settings of a decoder's execution that `auto` leaves to it."""

from g2is_jax.model.build import ModelConfig
from g2is_jax.model.kernels import KERNELS
from g2is_jax.runs.errors import InputError

# The fields of a config's section `model` that `execution` takes.
EXECUTION = ("dtype", "activations", "attention", "layers", "remat", "shard_base")
LAYERS = {"scan": True, "loop": False, "depth": None}


def execution(
    dtype: str,
    activations: str,
    attention: str,
    layers: str,
    remat: bool,
    shard_base: bool,
    backend: str,
) -> ModelConfig:
    """The settings of a decoder on a backend, which chooses what is `auto`.

    `activations`: float32 on a CPU, which only emulates bfloat16 between its products; else the
    dtype of the weights. `attention`: a kernel, see `kernel_for`. `layers`: `scan` compiles those
    that repeat once; `loop` compiles each; `depth`, a CPU's own, scans deep models alone. `backend`
    as in `jax.default_backend()`.
    """
    if activations == "auto":
        activations = "float32" if backend == "cpu" else dtype
    if layers == "auto":
        layers = "depth" if backend == "cpu" else "scan"
    if layers not in LAYERS:
        raise InputError(f"layers = {layers!r} is unknown; choose one of auto, {', '.join(LAYERS)}")
    kernel = kernel_for(attention, backend, activations)
    return ModelConfig(dtype, activations, kernel, remat, shard_base, LAYERS[layers])


def kernel_for(name: str, backend: str, activations: str) -> str:
    """The kernel that `name` asks for: one of KERNELS, or `auto` for the backend's own.

    `backend` as in `jax.default_backend()`; `activations`: a dtype's name. On a GPU the kernel is
    NVIDIA's, which computes in bfloat16; `cudnn` by name refuses other activations.
    """
    if name not in ("auto", *KERNELS):
        known = ", ".join(("auto", *KERNELS))
        raise InputError(f"attention = {name!r} is unknown; choose one of {known}")
    if name == "cudnn" and activations != "bfloat16":
        raise InputError(
            f"attention = 'cudnn' computes in bfloat16, and model.activations is {activations!r}; "
            "set model.activations to bfloat16, or attention to auto"
        )
    if name != "auto":
        return name
    if backend == "gpu":
        return "cudnn" if activations == "bfloat16" else "blocks"
    return "splash" if backend == "tpu" else "blocks"
