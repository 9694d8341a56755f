"""Published numbers of accelerators, to estimate with before one is rented."""

from dataclasses import dataclass

BFLOAT16_PASSES = 6  # in which a TPU computes a product of float32 at full precision


@dataclass(frozen=True)
class Chip:
    """Peak operations a second of dense products, bytes of memory, and bytes a second to it.

    float32: products at full precision (`jax.lax.Precision.HIGHEST`).
    """

    bfloat16: float
    float32: float
    memory: float
    bandwidth: float


def _tpu(bfloat16: float, memory: float, bandwidth: float) -> Chip:
    return Chip(bfloat16, bfloat16 / BFLOAT16_PASSES, memory, bandwidth)


CHIPS = {
    # Google Cloud's pages of each TPU.
    "v5e": _tpu(197e12, 16e9, 819e9),
    "v5p": _tpu(459e12, 95e9, 2765e9),
    "v6e": _tpu(918e12, 32e9, 1638e9),
    # NVIDIA's data sheets, SXM, without sparsity.
    "a100": Chip(312e12, 19.5e12, 80e9, 2039e9),
    "h100": Chip(989e12, 67e12, 80e9, 3350e9),
    "h200": Chip(989e12, 67e12, 141e9, 4800e9),
}


@dataclass(frozen=True)
class Work:
    """Work for a chip, in units that its published numbers turn into seconds.

    operations: in the activations' dtype. exact: operations at full precision of float32. traffic:
    bytes to and from memory, where the products do not hide them.
    """

    operations: float
    exact: float = 0.0
    traffic: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.operations + other.operations,
            self.exact + other.exact,
            self.traffic + other.traffic,
        )

    def times(self, count: float) -> "Work":
        """Returns as much work so many times."""
        return Work(count * self.operations, count * self.exact, count * self.traffic)

    def seconds(self, chip: Chip, activations: str) -> float:
        """Returns the seconds at a chip's full speed, one kind of work after the other."""
        peak = {"bfloat16": chip.bfloat16, "float32": chip.float32}[activations]
        return self.operations / peak + self.exact / chip.float32 + self.traffic / chip.bandwidth
