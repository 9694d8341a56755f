"""Replies to many prompts, batched by length; the batches do not change the replies."""

import itertools
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from g2is_jax.data.chat import ChatFormat, Encoded
from g2is_jax.evaluation.likelihood import batches
from g2is_jax.model.build import Model, devices_of, mesh_of
from g2is_jax.model.generate import Prompts, Stops, generate
from g2is_jax.model.lora import Leaves
from g2is_jax.model.sampling import GenerateConfig
from g2is_jax.runs.processes import gathered


def replies(
    model: Model,
    adapter: Leaves,
    base: Leaves,
    chat: ChatFormat,
    prompts: Sequence[np.ndarray],
    config: GenerateConfig,
    stops: Stops,
    batch_tokens: int,
) -> list[str]:
    """Generates the reply to each prompt of tokens, in order.

    `batch_tokens` go into each device at once, with the longest reply of each prompt: caches have
    room for as many. The processes that share the work compute
    different batches, and each returns all replies.
    """
    # Every token supervised: the mask then tells prompts from padding.
    encoded = [Encoded(prompt, np.ones(len(prompt), bool), False) for prompt in prompts]
    ids_M = _row_ids(prompts)

    def decode(tokens: list[int]) -> str:
        return str(chat.tokenizer.decode(tokens, skip_special_tokens=True))

    room = model.config.max_position_embeddings - config.new_tokens
    mine: list[tuple[int, str]] = []
    devices = devices_of(mesh_of(base))
    for batch in batches("replies", encoded, batch_tokens, room, devices, config.new_tokens):
        rows = Prompts(batch.tokens_BT, batch.supervised_BT, ids_M[batch.rows_B])
        generated = generate(model, adapter, base, rows, config, stops, decode)
        mine += zip(batch.rows_B.tolist(), (reply.text for reply in generated), strict=True)
    by_row = dict(itertools.chain(*gathered(mine)))  # beside the empty rows' -1
    return [by_row[row] for row in range(len(prompts))]


def _row_ids(prompts: Sequence[np.ndarray]) -> np.ndarray:
    """Hashes each prompt and the number of equal ones before it, (M,) int32.

    A sampled reply then depends on neither the other prompts nor their order.
    """
    before: Counter[bytes] = Counter()
    ids = []
    for prompt in prompts:
        content = prompt.tobytes()
        ids.append(zlib.crc32(content, before[content]) >> 1)
        before[content] += 1
    return np.array(ids, np.int32)
