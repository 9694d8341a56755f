"""What each stage of a run costs, reckoned from the config and the model's shapes alone.

Only what takes long is counted: the passes through the model, the projection, the walks of g2is
and g2is_paper. Not counted: files, compiling, the other selectors, padding, and what devices send
each other.
"""

from dataclasses import dataclass

from ml_collections import ConfigDict

from experiments.methods import FEATURES, METHODS, NOTHING, SECTIONS, needing
from experiments.settings import Settings, paths
from g2is_jax.features.projection import features_width
from g2is_jax.model.build import Model
from g2is_jax.model.costs import (
    base_bytes,
    cache_bytes,
    forward_operations,
    gradient_operations,
    head_operations,
    kept_bytes,
    size,
)
from g2is_jax.runs.chips import Chip
from g2is_jax.runs.errors import InputError
from g2is_jax.selection.rows import DTYPES
from g2is_jax.training.fit import FitConfig

FLOAT32 = 4  # bytes of a value of the adapter, its moments and its gradients


@dataclass(frozen=True)
class Sizes:
    """Rows of the pool and, of all targets together, of validation and test; a row's mean tokens,
    without padding."""

    pool_rows: int
    validation_rows: int
    test_rows: int
    mean_tokens: int

    def __post_init__(self):
        for field, value in vars(self).items():
            if value < 1:
                raise InputError(f"--{field}={value}; it must be at least 1")


@dataclass(frozen=True)
class Stage:
    """All that a run does of one kind, over seeds, targets and methods.

    operations: in the activations' dtype; float32_operations: at full precision; traffic: bytes to
    and from memory, where the products do not hide them. memory: bytes on each device, by what
    they hold. shared: all devices work on it; else one does.
    """

    name: str
    operations: float
    float32_operations: float
    traffic: float
    memory: dict[str, float]
    shared: bool

    def hours(self, chip: Chip, activations: str, devices: int, utilisation: float) -> float:
        """At this share of the chip's published numbers, one kind of work after the other."""
        peak = {"bfloat16": chip.bfloat16, "float32": chip.float32}[activations]
        seconds = (
            self.operations / peak
            + self.float32_operations / chip.float32
            + self.traffic / chip.bandwidth
        )
        return seconds / utilisation / (devices if self.shared else 1) / 3600


@dataclass(frozen=True)
class Plan:
    """A config, the model that it names, what it is to work on, and on how many devices."""

    config: ConfigDict
    settings: Settings
    model: Model
    sizes: Sizes
    devices: int

    @property
    def seeds(self) -> int:
        return len(self.settings.seeds)

    @property
    def targets(self) -> int:
        return len(paths(self.config.data.validation)) or len(self.settings.world.target_names)

    @property
    def chosen(self) -> float:
        """Rows that a method chooses."""
        budget = self.settings.choosing.budget
        if budget.unit == "fraction":
            return budget.budget * self.sizes.pool_rows
        return budget.budget / (self.sizes.mean_tokens if budget.unit == "tokens" else 1)

    @property
    def held(self) -> dict[str, float]:
        """Memory that every stage with a model takes."""
        base = base_bytes(self.model, self.devices)
        return {"base": base, "adapter": FLOAT32 * size(self.model.adapter_shapes)}

    def kept(self, batch_tokens: int) -> float:
        """Activations of a batch of the longest rows."""
        length = self.config.model.max_length
        return kept_bytes(self.model, max(batch_tokens, length), length)


def stages(plan: Plan) -> list[Stage]:
    """In the order of a run; those that no method asks for are left out."""
    methods = needing(plan.settings.choosing.methods, FEATURES)
    found = []
    if methods:
        kinds = len({_kind(plan.config, method) for method in methods})
        found = [
            _warmup(plan),
            _gradients(plan, "pool gradients", plan.sizes.pool_rows, kinds),
            _gradients(plan, "validation gradients", plan.sizes.validation_rows, 1),
        ]
    if any(method in SECTIONS for method in methods):
        found.append(_walk(plan))
    return [*found, _finetune(plan), _evaluate(plan)]


def _kind(config: ConfigDict, method: str) -> str:
    kind = METHODS[method].kind
    return config.grads.validation_kind if kind is None else kind(config)


def _warmup(plan: Plan) -> Stage:
    rows = plan.settings.warmup_fraction * plan.sizes.pool_rows * plan.seeds
    return _training(plan, "warm-up", rows, plan.settings.warmup)


def _finetune(plan: Plan) -> Stage:
    """A method that looks at no target is trained once for all of them."""
    rows = 0.0
    for method in plan.settings.choosing.methods:
        if METHODS[method].choose is not None:
            once = plan.sizes.pool_rows if method == "full" else plan.chosen
            rows += once * (1 if METHODS[method].needs == NOTHING else plan.targets)
    return _training(plan, "fine-tune", rows * plan.seeds, plan.settings.finetune)


def _training(plan: Plan, name: str, rows: float, fit: FitConfig) -> Stage:
    tokens = fit.epochs * rows * plan.sizes.mean_tokens
    adapter = plan.held["adapter"]
    memory = plan.held | {
        "optimiser": 2 * adapter,
        "gradients": 2 * adapter,  # the sum over microbatches, and the newest one's
        "activations": plan.kept(fit.microbatch_tokens),
    }
    operations = tokens * gradient_operations(plan.model, plan.sizes.mean_tokens)
    return Stage(name, operations, 0.0, 0.0, memory, shared=True)


def _gradients(plan: Plan, name: str, rows: int, kinds: int) -> Stage:
    """Each example's gradient, for so many kinds of features from one pass a checkpoint."""
    projection, shapes = plan.settings.projection, plan.model.adapter_shapes
    values, width = size(shapes), features_width(projection, shapes)
    batch_tokens = plan.config.grads.batch_tokens
    batch_rows = max(batch_tokens // plan.sizes.mean_tokens, 1)
    passes = rows * plan.settings.checkpoints * plan.seeds
    exact, traffic = 0.0, 2.0 * FLOAT32 * values  # the gradient, written and read
    if projection.kind == "rademacher":  # the signs are made anew for each batch
        exact = 2.0 * values * width
        traffic += 2.0 * FLOAT32 * values * width / batch_rows
    elif projection.kind == "sketch":
        traffic += FLOAT32 * values * projection.repetitions
    tokens = passes * plan.sizes.mean_tokens
    memory = plan.held | {
        "optimiser": 2 * plan.held["adapter"],
        "features": FLOAT32 * kinds * batch_rows * 2 * width,
        "activations": plan.kept(batch_tokens),
    }
    operations = tokens * gradient_operations(plan.model, plan.sizes.mean_tokens)
    return Stage(
        name, operations, passes * kinds * exact, passes * kinds * traffic, memory, shared=True
    )


def _walk(plan: Plan) -> Stage:
    """All features are read once for each chosen row."""
    width = features_width(plan.settings.projection, plan.model.adapter_shapes)
    width = width // 2**plan.settings.folds * plan.settings.checkpoints
    dtype = "float32" if plan.settings.checkpoints > 1 else plan.settings.store.dtype
    rows = plan.sizes.pool_rows
    features = float(rows * width * DTYPES[dtype].itemsize)
    walks = sum(method in SECTIONS for method in plan.settings.choosing.methods)
    reads = plan.chosen * walks * plan.targets * plan.seeds
    served = FLOAT32 * rows * plan.sizes.validation_rows / plan.targets
    memory = {"features": features / plan.devices, "served": served / plan.devices}
    return Stage("walk", 0.0, 2.0 * rows * width * reads, features * reads, memory, shared=True)


def _evaluate(plan: Plan) -> Stage:
    """The answers' loss, the letters' likelihoods where a task has some, and a reply to every row
    as if all were as long as they may be."""
    model, sizes, config = plan.model, plan.sizes, plan.settings.evaluate
    rows = sizes.test_rows * len(plan.settings.choosing.methods) * plan.seeds
    batch_rows = max(config.batch_tokens // sizes.mean_tokens, 1)
    block = forward_operations(model, sizes.mean_tokens)
    read_once = sizes.mean_tokens * (block + head_operations(model))
    letters = max(len(task.letters) for task in plan.settings.tasks)  # each a row of its own
    room = sizes.mean_tokens + config.new_tokens
    prompt = sizes.mean_tokens * block if config.new_tokens else 0.0
    token = forward_operations(model, room) + head_operations(model)
    # A step reads the base once for the whole batch, and the whole cache of each row.
    step = base_bytes(model, 1) / batch_rows + room * cache_bytes(model)
    longest = max(config.batch_tokens, plan.config.model.max_length)
    memory = plan.held | {
        "cache": batch_rows * room * cache_bytes(model),
        "logits": FLOAT32 * longest * model.config.vocab_size,
    }
    operations = rows * ((1 + letters) * read_once + prompt + config.new_tokens * token)
    return Stage("evaluate", operations, 0.0, rows * config.new_tokens * step, memory, False)
