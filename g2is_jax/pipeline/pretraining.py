"""Pre-trains the base model of the built-in world, from scratch, and writes it as a checkpoint."""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import optax
from etils import epath
from ml_collections import ConfigDict

from g2is_jax.data.batches import (
    Batch,
    TrainingShapes,
    row_lengths,
    training_batches,
    training_shapes,
)
from g2is_jax.data.chat import ChatFormat, Encoded
from g2is_jax.data.messages import Message
from g2is_jax.data.tokenizer import load_tokenizer
from g2is_jax.model.build import Model, ModelConfig, build_model
from g2is_jax.model.families import decoder_config
from g2is_jax.model.lora import NO_ADAPTER, Leaves
from g2is_jax.model.weights import write_checkpoint
from g2is_jax.runs.metrics import MetricsLog, Progress
from g2is_jax.skills.world import pretraining_task, train_tokenizer
from g2is_jax.training.checkpoints import open_checkpoints
from g2is_jax.training.loss import token_losses

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

FLOAT32 = ModelConfig("float32", "float32", "grouped_blocks", False, False, scan=False)


def run(config: ConfigDict, workdir: epath.Path) -> epath.Path:
    """Trains from the newest checkpoint on; returns the folder of the finished model."""
    folder = workdir / "checkpoint"
    chat = ChatFormat(_tokenizer(config, folder), "tulu")
    raw = config.decoder.to_dict()
    model = build_model(decoder_config(raw, "config.decoder"), NO_ADAPTER, FLOAT32)
    base = _train(model, chat, config, workdir)
    write_checkpoint(folder, raw, model.base_shapes, base.__getitem__, jnp.bfloat16)
    return folder


def _tokenizer(config: ConfigDict, folder: epath.Path) -> "PreTrainedTokenizerBase":
    """Trains the tokenizer on tasks of the world, and writes it into the model's folder."""
    rng = random.Random(f"tokenizer-{config.seed}")
    tasks = [pretraining_task(rng, 0.5, 0.5) for _ in range(config.tokenizer_tasks)]
    tokenizer = train_tokenizer(
        (text for task in tasks for text in (task.prompt, task.reply)), config.decoder.vocab_size
    )
    tokenizer.save_pretrained(str(folder))
    return load_tokenizer(folder)


def _train(model: Model, chat: ChatFormat, config: ConfigDict, workdir: epath.Path) -> Leaves:
    optimizer = _optimizer(config)
    base = _initial(model, config.seed)
    state = optimizer.init(base)
    checkpoints = open_checkpoints(workdir / "training", keep=1)
    done = max(checkpoints.steps(), default=0)
    if done:
        base, state = checkpoints.restore(done, base, state)
    log = MetricsLog(workdir / "metrics.jsonl", start_step=done)
    gradient, update = _gradient_function(model), _update_function(optimizer)
    sample = [example for step in range(32) for example in _examples(chat, config, step)]
    shapes = training_shapes(row_lengths(sample), config.batch_size, config.microbatch_tokens)
    with Progress("pre-train", config.steps, done=done, unit="steps") as progress:
        for step in range(done, config.steps):
            parts = [gradient(base, batch) for batch in _microbatches(chat, config, step, shapes)]
            gradients, loss, tokens = jax.tree.map(lambda *leaves: sum(leaves), *parts)
            base, state = update(base, state, gradients, tokens)
            log.write(step, loss=float(loss / tokens))
            progress.advance()
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                log.flush()
                checkpoints.save(step + 1, base, state, {"step": step + 1})
    checkpoints.close()
    return base


def _examples(chat: ChatFormat, config: ConfigDict, step: int) -> list[Encoded]:
    """Draws the examples of a step, by the seed and the step alone."""
    rng = random.Random(f"pretrain-{config.seed}-{step}")
    tasks = [
        pretraining_task(rng, config.house_share, config.composed_share)
        for _ in range(config.batch_size)
    ]
    length = config.decoder.max_position_embeddings
    return [
        chat.encode((Message("user", task.prompt), Message("assistant", task.reply)), length)
        for task in tasks
    ]


def _microbatches(
    chat: ChatFormat, config: ConfigDict, step: int, shapes: TrainingShapes
) -> list[Batch]:
    """Lays out the examples of a step; those longer than the widest shape are left out."""
    encoded = _examples(chat, config, step)
    width = shapes.longest
    short = [example for example in encoded if len(example.tokens_T) <= width]
    _, batches = next(training_batches(short, config.batch_size, 0, 1, 0, shapes))
    return batches


def _initial(model: Model, seed: int) -> Leaves:
    """Draws the weights to start from: norms 1, embeddings N(0, 0.02^2), matrices N(0, 1 / in).

    Matrices that write into the residual stream are damped by the depth.
    """
    key = jax.random.key(seed)
    damping = (2 * len(model.config.layers)) ** -0.5
    base = {}
    for index, (path, shape) in enumerate(sorted(model.base_shapes.items())):
        if len(shape) == 1:
            base[path] = jnp.ones(shape)
            continue
        scale = 0.02 if path == "embed_tokens" else shape[1] ** -0.5
        scale *= damping if "o_proj" in path or "down_proj" in path else 1.0
        base[path] = scale * jax.random.normal(jax.random.fold_in(key, index), shape)
    return base


def _optimizer(config: ConfigDict) -> optax.GradientTransformation:
    rise = round(config.warmup * config.steps)
    rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, rise, config.steps)
    adam = optax.adamw(rate, b2=config.b2, weight_decay=config.weight_decay)
    return optax.chain(optax.clip_by_global_norm(1.0), adam)


def _gradient_function(model: Model) -> Callable:
    """Returns a jitted (base, batch) -> summed gradient of all weights, summed loss, tokens."""

    def example_loss(base, tokens_T, supervised_T):
        hidden_TD = model.hidden({}, base, tokens_T)
        losses_T = token_losses(model, model.head_weights(base), hidden_TD[:-1], tokens_T[1:])
        return jnp.sum(jnp.where(supervised_T[1:], losses_T, 0.0))

    def loss(base, tokens_BT, supervised_BT):
        losses_B = jax.vmap(example_loss, in_axes=(None, 0, 0))(base, tokens_BT, supervised_BT)
        return jnp.sum(losses_B)

    @jax.jit
    def gradient(base, tokens_BT, supervised_BT):
        total, gradients = jax.value_and_grad(loss)(base, tokens_BT, supervised_BT)
        return gradients, total, jnp.sum(supervised_BT[:, 1:])

    return lambda base, batch: gradient(base, batch.tokens_BT, batch.supervised_BT)


def _update_function(optimizer: optax.GradientTransformation) -> Callable:
    """Returns a jitted step of the optimizer on the mean gradient of so many tokens."""

    @jax.jit
    def update(base, state, gradients, tokens):
        mean = jax.tree.map(lambda leaf: leaf / tokens, gradients)
        steps, state = optimizer.update(mean, state, base)
        return optax.apply_updates(base, steps), state

    return update
