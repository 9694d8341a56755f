"""Batched decoding with a key/value cache of fixed shape, greedy or sampled.

How rows are padded, batched, ordered and cut into chunks of steps does not change their replies.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jax.stages import Wrapped

from g2is_jax.model.build import Caches, Model, mesh_of
from g2is_jax.model.lora import Leaves
from g2is_jax.model.sampling import GenerateConfig, choose, row_keys
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.mesh import DATA

CHUNK = 32  # tokens between two searches for stop strings


@dataclass(frozen=True)
class Prompts:
    """The rows to continue.

    `mask_BT`: Hugging Face's attention mask, with padding left or right or both. `row_ids_B` name
    the rows for sampling: a prompt under the same id and seed gets the same reply. A row without
    any token only fills the batch; its reply is empty.
    """

    tokens_BT: np.ndarray  # int32
    mask_BT: np.ndarray  # bool
    row_ids_B: np.ndarray  # int32


@dataclass(frozen=True)
class Stops:
    """The ends of a reply: any of these token ids, or the first of these strings in its text."""

    tokens: tuple[int, ...]
    strings: tuple[str, ...]

    def __post_init__(self):
        if "" in self.strings:
            raise InputError("a stop string is empty, so every reply would be empty; leave it out")


@dataclass(frozen=True)
class Reply:
    """The continuation of a prompt.

    `tokens`: without the stop token, but with the token that completed a stop string. `text`: up
    to the stop string. `ended`: true if a stop ended it, false if it reached the longest length.
    """

    tokens: list[int]
    text: str
    ended: bool


class State(NamedTuple):
    """The rows of a batch in decoding; the last token of each has yet to go through the model."""

    tokens_B: jax.Array
    ended_B: jax.Array
    lengths_B: jax.Array  # of the prompts
    keys_B: jax.Array
    caches: Caches  # each (B, [layers,] K, S, width of a head)


def generate(
    model: Model,
    adapter: Leaves,
    base: Leaves,
    prompts: Prompts,
    config: GenerateConfig,
    stops: Stops,
    decode: Callable[[list[int]], str],
    chunk: int = CHUNK,
) -> list[Reply]:
    """Returns the reply to each row; `decode` gives the text of a reply's tokens.

    Devices that each have the base share the rows, and their number must divide them. The text of
    a longer reply has to start like that of a shorter one, as it does for all tokenizers but for
    letters of which only some bytes are there yet.
    """
    tokens_BT, lengths_B = left_aligned(prompts.tokens_BT, prompts.mask_BT)
    most = model.config.max_position_embeddings
    if lengths_B.max() + config.new_tokens > most:
        raise InputError(
            f"a prompt of {lengths_B.max()} tokens leaves no room for {config.new_tokens} more "
            f"within the model's max_position_embeddings = {most}; cut the prompt or lower "
            "new_tokens"
        )
    room = min(tokens_BT.shape[1] + config.new_tokens, most)
    steps = min(chunk, config.new_tokens) if stops.strings else config.new_tokens
    prefill, advance = decoding_functions(
        model, config.temperature, config.top_p, stops.tokens, mesh_of(base)
    )
    keys_B = row_keys(config.seed, jnp.asarray(prompts.row_ids_B, jnp.uint32))
    state = prefill(adapter, base, tokens_BT[:, :most], lengths_B, keys_B, room=room)
    new_BT = np.asarray(state.tokens_B)[:, None]
    replies: list[Reply | None] = [Reply([], "", True) if n == 0 else None for n in lengths_B]
    while True:
        done = new_BT.shape[1] == config.new_tokens
        for row in [row for row, reply in enumerate(replies) if reply is None]:
            replies[row] = _finished(new_BT[row], stops, decode, done)
        if all(reply is not None for reply in replies):
            return [reply for reply in replies if reply is not None]
        ended_B = np.array([reply is not None for reply in replies])
        limits = (new_BT.shape[1], config.new_tokens)
        state, new_BC, count = advance(adapter, base, state, ended_B, *limits, chunk=steps)
        new_BT = np.concatenate([new_BT, np.asarray(new_BC)[:, : int(count)]], axis=1)


def left_aligned(tokens_BT: np.ndarray, mask_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows with their real tokens first, (B, T), and the number of those, (B,)."""
    mask_BT = np.asarray(mask_BT, bool)
    order_BT = np.argsort(~mask_BT, axis=1, kind="stable")
    aligned_BT = np.take_along_axis(np.asarray(tokens_BT, np.int32), order_BT, axis=1)
    return aligned_BT, mask_BT.sum(axis=1, dtype=np.int32)


def _finished(
    tokens_T: np.ndarray, stops: Stops, decode: Callable[[list[int]], str], done: bool
) -> Reply | None:
    """Returns the reply if a stop is in these tokens or no token may follow, else None."""
    hits = np.flatnonzero(np.isin(tokens_T, stops.tokens))
    tokens = tokens_T[: hits[0] if len(hits) else None].tolist()
    if not (stops.strings or len(hits) or done):
        return None
    text = decode(tokens)
    if any(string in text for string in stops.strings):
        return _cut(tokens, stops.strings, decode)
    return Reply(tokens, text, len(hits) > 0) if len(hits) or done else None


def _cut(tokens: list[int], strings: Sequence[str], decode: Callable[[list[int]], str]) -> Reply:
    """Returns the fewest tokens whose text holds a stop string, and the text before it."""
    short, long = 0, len(tokens)  # bisection: the text of `short` tokens holds no stop string
    while long - short > 1:
        middle = (short + long) // 2
        text = decode(tokens[:middle])
        short, long = (short, middle) if any(s in text for s in strings) else (middle, long)
    text = decode(tokens[:long])
    return Reply(tokens[:long], text[: min(text.find(s) for s in strings if s in text)], True)


@functools.cache
def decoding_functions(
    model: Model, temperature: float, top_p: float, ends: tuple[int, ...], mesh: Mesh | None
) -> tuple[Wrapped, Wrapped]:
    """Returns jitted `prefill`, from prompts to a first new token, and `advance`, to `chunk` more.

    prefill(adapter, base, prompts_BT, lengths_B, keys_B, room), with `room` the cache's length;
    advance(adapter, base, state, ended_B, step, new_tokens, chunk), after `step` new tokens ->
    state, new tokens (B, chunk) and how many of them were made: fewer once all rows have ended. It
    donates the state. The devices of a mesh share the rows.
    """

    def follow(base, hidden_BTD, keys_B, step):
        head = functools.partial(model.head, model.head_part(base))
        logits_BV = jax.vmap(head)(hidden_BTD)[:, 0]
        tokens_B = choose(logits_BV, keys_B, step, temperature, top_p)
        return tokens_B, jnp.isin(tokens_B, jnp.asarray(ends, jnp.int32))

    def prefill(adapter, base, prompts_BT, lengths_B, keys_B, room):
        of_rows = functools.partial(_prefill, model, follow, room)
        return model.over_rows(of_rows, mesh)(adapter, base, prompts_BT, lengths_B, keys_B)

    def advance(adapter, base, state, ended_B, step, new_tokens, chunk):
        of_rows = functools.partial(_advance, model, follow, mesh, chunk)
        rows = PartitionSpec(DATA)
        run = model.over_rows(of_rows, mesh, (rows, rows, PartitionSpec()))
        return run((adapter, step, new_tokens), base, state, ended_B)

    return (
        jax.jit(prefill, static_argnames="room"),
        jax.jit(advance, static_argnames="chunk", donate_argnames="state"),
    )


def _prefill(
    model: Model, follow: Callable, room: int, adapter, base, prompts_BT, lengths_B, keys_B
) -> State:
    """Runs the whole prompts; `follow` turns last hidden states into tokens and ends."""
    start = jax.vmap(lambda tokens_T: model.step(adapter, base, tokens_T, 0, None))
    hidden_BTD, caches = start(prompts_BT)
    last_B = jnp.maximum(lengths_B - 1, 0)
    last_BTD = jnp.take_along_axis(hidden_BTD, last_B[:, None, None], axis=1)
    tokens_B, ended_B = follow(base, last_BTD, keys_B, 0)
    # The room for what follows is added only here: the prompt attends over its own width.
    caches = jax.tree.map(
        lambda whole, part: jax.lax.dynamic_update_slice(whole, part, (0,) * whole.ndim),
        _copies(model.empty_caches(room), prompts_BT.shape[0]),
        caches,
    )
    return State(tokens_B, ended_B | (lengths_B == 0), lengths_B, keys_B, caches)


def _advance(
    model: Model, follow: Callable, mesh: Mesh | None, chunk: int, shared, base, state, ended_B
) -> tuple[State, jax.Array, jax.Array]:
    """Decodes until all rows have ended, `chunk` more tokens are made, or `new_tokens` in all.

    `ended_B`: rows that have ended for another reason than a stop token. The devices stop together,
    as each of them needs what the others hold.
    """
    adapter, first, new_tokens = shared
    model_step = jax.vmap(functools.partial(model.step, adapter, base))

    def going(ended_B):
        here = jnp.any(~ended_B)
        return here if mesh is None else jax.lax.pmax(here.astype(jnp.int32), DATA) > 0

    def unfinished(carry):
        _, _, made, is_going = carry
        return (first + made < new_tokens) & (made < chunk) & is_going

    def decode_token(carry):
        s, new_BC, made, _ = carry
        places_B = jnp.maximum(s.lengths_B, 1) + first + made - 1
        hidden_BTD, caches = model_step(s.tokens_B[:, None], places_B, s.caches)
        tokens_B, ends_B = follow(base, hidden_BTD, s.keys_B, first + made)
        new_BC = new_BC.at[:, made].set(tokens_B)
        s = s._replace(tokens_B=tokens_B, ended_B=s.ended_B | ends_B, caches=caches)
        return s, new_BC, made + 1, going(s.ended_B)

    state = state._replace(ended_B=state.ended_B | ended_B)
    new_BC = jnp.zeros((state.tokens_B.shape[0], chunk), jnp.int32)
    carry = (state, new_BC, jnp.int32(0), going(state.ended_B))
    state, new_BC, made, _ = jax.lax.while_loop(unfinished, decode_token, carry)
    return state, new_BC, made


def _copies(caches: Caches, batch: int) -> Caches:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (batch, *leaf.shape)), caches)
