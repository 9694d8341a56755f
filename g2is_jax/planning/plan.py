"""The plan of a run, which costs are estimated for: config, shapes, rows, number of devices."""

from dataclasses import dataclass

from ml_collections import ConfigDict

from g2is_jax.model.build import Model, with_adapter
from g2is_jax.pipeline.settings import Settings
from g2is_jax.planning.model_costs import base_bytes, kept_bytes, size
from g2is_jax.planning.token_counts import Layout, RowCounts
from g2is_jax.runs.errors import InputError

BACKEND = "tpu"  # plans are for accelerators
FLOAT32 = 4  # bytes of a value of the adapter, its moments and its gradients


@dataclass(frozen=True)
class Sizes:
    """The rows of the pool, those of validation and test of all targets, and a row's mean tokens.

    Padding is not counted.
    """

    pool_rows: int
    validation_rows: int
    test_rows: int
    mean_tokens: int

    def __post_init__(self):
        for name, value in vars(self).items():
            if value < 1:
                raise InputError(f"--{name}={value}; it must be at least 1")

    def rows(self) -> "RunRows":
        """The rows, all of the mean length and supervised from end to end."""
        pool, validation, test = (
            RowCounts(count, self.mean_tokens, self.mean_tokens)
            for count in (self.pool_rows, self.validation_rows, self.test_rows)
        )
        return RunRows(pool, validation, test, test)


@dataclass(frozen=True)
class RunRows:
    """The rows of each file, and the prompts of the test rows with what is shown before them.

    reply: tokens of the longest reply that the test rows hold; None where no row was read.
    """

    pool: RowCounts
    validation: RowCounts
    test: RowCounts
    prompts: RowCounts
    reply: int | None = None


@dataclass(frozen=True)
class Plan:
    """A config, the model that it names, the rows that it works on, and on how many devices.

    hosts: among which the devices are, in equal parts; those of one share the base.
    """

    config: ConfigDict
    settings: Settings
    model: Model
    rows: RunRows
    devices: int
    hosts: int = 1

    @property
    def gradient_model(self) -> Model:
        """The model whose gradients are taken."""
        return with_adapter(self.model, self.settings.features.layers)

    @property
    def seeds(self) -> int:
        """The number of seeds."""
        return len(self.settings.seeds)

    @property
    def targets(self) -> int:
        """The number of targets."""
        return self.settings.data.targets

    @property
    def batch_tokens(self) -> int:
        """The tokens of a batch of the feature passes; InputError where a run would measure it."""
        tokens = self.settings.features.batch_tokens
        if not tokens:
            raise InputError(
                "grads.batch_tokens = 0 is what memory allows, which only a run can measure; give "
                "a number for an estimate, for instance --config.grads.batch_tokens=16384"
            )
        return tokens

    @property
    def chosen(self) -> float:
        """The rows that a method chooses."""
        budget, pool = self.settings.selection.budget, self.rows.pool
        if budget.unit == "fraction":
            return budget.budget * pool.count
        return budget.budget / (pool.supervised if budget.unit == "tokens" else 1)

    @property
    def held(self) -> dict[str, float]:
        """The bytes on each device that every stage with a model takes."""
        base = base_bytes(self.model, self.devices // self.hosts)
        return {"base": base, "adapter": FLOAT32 * size(self.model.adapter_shapes)}

    @property
    def reply_tokens(self) -> int:
        """The tokens of the longest reply."""
        most = self.settings.evaluation.evaluate.new_tokens
        return most if self.rows.reply is None else min(most, self.rows.reply)

    @property
    def max_length(self) -> int:
        """The tokens that a row has at most."""
        return self.settings.data.max_length

    def kept(self, layout: Layout) -> float:
        """The bytes of the activations of the largest batch."""
        return kept_bytes(self.model, layout.largest)
