"""The log-likelihood of continuations, and whether greedy decoding would have written them."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.stages import Wrapped

from g2is_jax.data.batches import Batch, lay_out, length_plans, row_lengths
from g2is_jax.data.chat import Encoded
from g2is_jax.model.build import Model, devices_of, mesh_of
from g2is_jax.model.lora import Leaves
from g2is_jax.runs.ahead import ahead
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.metrics import Progress
from g2is_jax.runs.processes import gathered, process_share
from g2is_jax.training.loss import token_scores

IN_FLIGHT = 2  # batches: one is computed while the next one is laid out

Tokens = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class Likelihoods:
    """Holds how likely each row's supervised tokens are, after all tokens before each of them.

    sums_M: summed log-probability in nats, float64; counts_M: how many tokens; greedy_M: each of
    them is the likeliest, so that greedy decoding writes them. A row without any: 0, 0, True.
    """

    sums_M: np.ndarray
    counts_M: np.ndarray
    greedy_M: np.ndarray


def likelihoods(
    model: Model, adapter: Leaves, base: Leaves, encoded: Sequence[Encoded], batch_tokens: int
) -> Likelihoods:
    """Scores rows, in order whatever the batches; `batch_tokens` go through each device at once.

    The processes that share the work compute different batches, and each returns all rows.
    """
    scored = Likelihoods(
        np.zeros(len(encoded)), np.zeros(len(encoded), np.int64), np.ones(len(encoded), bool)
    )
    mesh = mesh_of(base)
    run, most = likelihood_function(model, mesh), model.config.max_position_embeddings

    def started(batch: Batch) -> tuple[np.ndarray, ...]:
        return batch.rows_B, *run(adapter, base, batch.tokens_BT, batch.supervised_BT)

    mine = []
    laid_out = batches("likelihoods", encoded, batch_tokens, most, devices_of(mesh))
    for found in ahead(map(started, laid_out), IN_FLIGHT):
        filled_B = found[0] >= 0
        mine.append([np.asarray(of_B)[filled_B].tolist() for of_B in found])
    for rows, *values in itertools.chain(*gathered(mine)):
        for scored_M, value in zip(vars(scored).values(), values, strict=True):
            scored_M[rows] = value
    return scored


def continuations(pairs: Sequence[tuple[Tokens, Tokens]], max_length: int) -> list[Encoded]:
    """Encodes pairs (prompt, continuation) as rows whose continuation alone is supervised.

    A row longer than `max_length` tokens loses the beginning of its prompt. Raises InputError for
    an empty prompt or continuation, or one that leaves no room for a token of its prompt. Differs
    from lm-eval, which keeps one token of the prompt more: the row's last is not put in there.
    """
    rows = []
    for place, (prompt, continuation) in enumerate(pairs):
        prompt_T, continuation_T = (np.asarray(part, np.int32) for part in (prompt, continuation))
        if not len(prompt_T):
            raise InputError(
                f"pair {place}: the prompt is empty, so nothing predicts the continuation's first "
                "token; begin it with the tokenizer's bos or eos token"
            )
        if not len(continuation_T):
            raise InputError(f"pair {place}: the continuation is empty; leave the pair away")
        if len(continuation_T) >= max_length:
            raise InputError(
                f"pair {place}: a continuation of {len(continuation_T)} tokens leaves no room for "
                f"a prompt within {max_length}; shorten it or raise model.max_length"
            )
        whole_T = np.concatenate([prompt_T, continuation_T])
        tokens_T = whole_T[-max_length:]
        supervised_T = np.arange(len(tokens_T)) >= len(tokens_T) - len(continuation_T)
        rows.append(Encoded(tokens_T, supervised_T, len(tokens_T) < len(whole_T)))
    return rows


def batches(
    label: str,
    encoded: Sequence[Encoded],
    batch_tokens: int,
    most: int,
    devices: int = 1,
    later: int = 0,
) -> Iterator[Batch]:
    """Yields this process's share of the batches, in which every row is once, by length, and shows
    how far it is; a batch counts once the next one is asked for.

    batch_tokens: of each device, with `later` tokens that each row is still to get. Not padded
    beyond `most` tokens, the longest the model takes.
    """
    process, processes = process_share()
    lengths_N = row_lengths(encoded)
    plans = length_plans(lengths_N + later, batch_tokens * devices, devices)
    mine = plans[process::processes]
    with Progress(label, sum(len(plan.rows) for plan in mine)) as progress:
        for plan in mine:
            longest = int(lengths_N[plan.rows].max())
            width_T = max(min(plan.width_T - later, most), longest)
            yield lay_out(encoded, dataclasses.replace(plan, width_T=width_T))
            progress.advance(len(plan.rows))


@functools.cache
def likelihood_function(model: Model, mesh: Mesh | None) -> Wrapped:
    """Compiles (adapter, base, tokens_BT, supervised_BT) -> sums (B,), counts (B,), greedy (B,).

    The devices of a mesh share the rows.
    """

    def row_likelihood(adapter, base, tokens_T, supervised_T):
        hidden_TD = model.hidden(adapter, base, tokens_T)
        counted_T = jnp.append(supervised_T[1:], False)
        losses_T, likeliest_T = token_scores(
            model, base, hidden_TD, jnp.roll(tokens_T, -1), counted_T
        )
        return -jnp.sum(losses_T), jnp.sum(counted_T), jnp.all(likeliest_T | ~counted_T)

    of_rows = jax.vmap(row_likelihood, in_axes=(None, None, 0, 0))
    return jax.jit(model.over_rows(of_rows, mesh))
