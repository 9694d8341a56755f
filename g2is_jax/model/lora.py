"""Low-rank adapters: the adapted layer, the choice of layers, and the order of the leaves."""

import fnmatch
import functools
from dataclasses import dataclass
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from g2is_jax.model.product import product
from g2is_jax.model.sharing import shared_product

Leaves = dict[str, jax.Array]  # leaf path -> array; sorted by path, the canonical leaf order
Shapes = dict[str, tuple[int, ...]]  # by leaf path


class AdapterConfig(Protocol):
    """What a linear layer has beside its weight, and the layers that have it: by name (`q_proj`),
    by path (`layers.3.mlp.up_proj`), by a pattern of either, or `all-linear`.

    FIELD: of the config, which names them."""

    FIELD: ClassVar[str]

    @property
    def targets(self) -> tuple[str, ...]:
        """The names."""

    @property
    def dropout(self) -> float:
        """The share of its inputs that it drops in training."""

    def matches(self, path: str) -> bool:
        """True if the linear layer of this path has it."""

    def shapes(self, d_out: int, d_in: int) -> Shapes:
        """The shapes of its leaves in a layer, by names."""

    def has_gradient(self, path: str) -> bool:
        """True if features are of this leaf's gradient."""

    def added(self, leaves: Leaves, x_TD: jax.Array, y_TD: jax.Array, keys_T, dtype) -> jax.Array:
        """The output of a layer from its input x and the product y with its weight."""


@dataclass(frozen=True)
class LoraConfig:
    """The settings of a LoRA adapter; rank 0 attaches nothing.

    `rslora`: scale by alpha / sqrt(rank) instead of alpha / rank.
    """

    FIELD: ClassVar[str] = "lora.targets"
    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    rslora: bool

    @property
    def scale(self) -> float:
        """The factor of B A x."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    def matches(self, path: str) -> bool:
        """True if the linear layer of this path carries an adapter."""
        return self.rank > 0 and any(matches(target, path) for target in self.targets)

    def shapes(self, d_out: int, d_in: int) -> Shapes:
        """The shapes of the adapter of a layer, by names."""
        return {"lora_A": (self.rank, d_in), "lora_B": (d_out, self.rank)}

    def has_gradient(self, path: str) -> bool:
        """True if features are of this leaf's gradient."""
        return True

    def added(self, leaves: Leaves, x_TD: jax.Array, y_TD: jax.Array, keys_T, dtype) -> jax.Array:
        """y + scale B A dropout(x), of operands rounded to `dtype`."""
        inner_TR = product(self._dropped(x_TD, keys_T), leaves["lora_A"], dtype)
        return y_TD + self.scale * product(inner_TR, leaves["lora_B"], dtype)

    def _dropped(self, x_TD: jax.Array, dropout_keys_T: jax.Array | None) -> jax.Array:
        if dropout_keys_T is None or self.dropout == 0:
            return x_TD
        keep = 1.0 - self.dropout
        drawn = functools.partial(jax.random.bernoulli, p=keep, shape=x_TD.shape[1:])
        kept_TD = jax.vmap(drawn)(dropout_keys_T)
        return jnp.where(kept_TD, x_TD / keep, 0).astype(x_TD.dtype)


NO_ADAPTER = LoraConfig(rank=0, alpha=1.0, dropout=0.0, targets=(), rslora=False)


def matches(target: str, path: str) -> bool:
    """True if a target names the linear layer of this path, such as `layers.3.mlp.up_proj`."""
    names = (path, path.rpartition(".")[2])
    return target == "all-linear" or any(fnmatch.fnmatchcase(name, target) for name in names)


class Linear(nnx.Module):
    """y = W x + b + scale B A dropout(x), with W (out, in), A (r, in), B (out, r) (Hu et al.); or
    another adapter than LoRA's (two_sided.py).

    The operands of its products are in the dtype of W, and their sums in float32; y is in the dtype
    of x. Differs from nnx.LoRA: has the scale and dropout, and an adapter in float32 does not turn
    the activations to float32.
    """

    def __init__(
        self, path: str, d_in: int, d_out: int, bias: bool, dtype: jnp.dtype, lora: AdapterConfig
    ):
        self.shape = (d_out, d_in)
        self.weight = nnx.Param(jnp.zeros(self.shape, dtype))
        self.biased = bias
        if bias:
            self.bias = nnx.Param(jnp.zeros((d_out,), dtype))
        self.adapted = lora.matches(path)
        self.lora = lora
        for name, shape in lora.shapes(d_out, d_in).items() if self.adapted else ():
            setattr(self, name, nnx.LoRAParam(jnp.zeros(shape, jnp.float32)))

    @property
    def is_sharded(self) -> bool:
        """True if this device holds only a share of the weight."""
        return self.weight[...].shape != self.shape

    def __call__(self, x_TD: jax.Array, dropout_keys_T: jax.Array | None) -> jax.Array:
        weight = self.weight[...]
        y_TD = shared_product(x_TD, weight, self.shape, weight.dtype)
        if self.biased:
            y_TD += self.bias[...].astype(y_TD.dtype)[None, :]
        if self.adapted:
            leaves = {name: getattr(self, name)[...] for name in self.lora.shapes(*self.shape)}
            y_TD = self.lora.added(leaves, x_TD, y_TD, dropout_keys_T, weight.dtype)
        return y_TD.astype(x_TD.dtype)


def leaf_path(path: tuple) -> str:
    """The path of a parameter, joined by dots; zero-padded layer numbers keep the order."""
    return ".".join(f"{part:03d}" if isinstance(part, int) else str(part) for part in path)


def checkpoint_path(path: str) -> str:
    """The path as checkpoints write it, with layer numbers not padded."""
    return ".".join(str(int(part)) if part.isdigit() else part for part in path.split("."))


def adapter_shapes(lora: AdapterConfig, base_shapes: Shapes) -> Shapes:
    """Shapes of the adapter's parameters, by their own paths, of a base of these shapes."""
    shapes: Shapes = {}
    for path in sorted(base_shapes):
        layer = path.removesuffix(".weight")
        if path.endswith("_proj.weight") and lora.matches(checkpoint_path(layer)):
            own = lora.shapes(*base_shapes[path])
            shapes |= {f"{layer}.{name}": shape for name, shape in own.items()}
    return shapes


def init_adapter(shapes: Shapes, seed: int) -> Leaves:
    """A fresh adapter: A uniform in +-1/sqrt(in), as PEFT draws it, and B zero (so B A = 0)."""
    key = jax.random.key(seed)
    leaves = {}
    for index, (path, shape) in enumerate(sorted(shapes.items())):
        if path.endswith("lora_B"):
            leaves[path] = jnp.zeros(shape, jnp.float32)
        else:
            bound = shape[1] ** -0.5
            key_leaf = jax.random.fold_in(key, index)
            leaves[path] = jax.random.uniform(key_leaf, shape, jnp.float32, -bound, bound)
    return leaves


def linear_layers(base_shapes: Shapes) -> Shapes:
    """Shapes (out, in) of the layers that can carry an adapter, by paths as checkpoints write them.

    Blocks are in their order, and the layers of a block in the order of their names.
    """
    weights = {path: shape for path, shape in base_shapes.items() if path.endswith("_proj.weight")}
    return {
        checkpoint_path(path.removesuffix(".weight")): weights[path] for path in sorted(weights)
    }


def match_report(lora: LoraConfig, base_shapes: Shapes) -> str:
    """One line on the adapted layers: `q_proj in 2 of 32 layers (3, 7); ...`."""
    linear = linear_layers(base_shapes)
    layers: dict[str, list[int]] = {}  # by the name of the linear layer
    for path in linear:
        if lora.matches(path):
            _, index, *_, name = path.split(".")
            layers.setdefault(name, []).append(int(index))
    if not layers:
        return "LoRA: none"
    names: dict[tuple[int, ...], list[str]] = {}  # by the layers they are in
    for name, indices in layers.items():
        names.setdefault(tuple(indices), []).append(name)
    total = len({path.split(".")[1] for path in linear})
    groups = [
        f"{', '.join(group)} in {len(indices)} of {total} layers"
        + ("" if len(indices) == total else f" ({_ranges(indices)})")
        for indices, group in names.items()
    ]
    shapes = [shape for path, shape in linear.items() if lora.matches(path)]
    parameters = lora.rank * sum(d_out + d_in for d_out, d_in in shapes)
    return (
        f"LoRA r={lora.rank}, scale {lora.scale:g}: {', '.join(groups)}; "
        f"{len(shapes)} matrices, {parameters:,} parameters"
    )


def _ranges(numbers: tuple[int, ...]) -> str:
    """Ascending numbers in short: `0-3, 7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
