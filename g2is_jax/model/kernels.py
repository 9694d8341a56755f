"""Causal self-attention of one whole row, by the kernel that suits the backend.

Tokens see themselves and those before them: at most `window` of them, and those of their own
segment (a packed row holds several). With a cap c the products pass through c * tanh(x / c), as in
Gemma 2. Query heads share keys and values in groups.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask

from g2is_jax.model.attention_blocks import attend_in_blocks, by_kv_head, by_token

KERNELS = ("blocks", "grouped_blocks", "splash", "cudnn")
# Of `splash`: the side of a tile, and the longest block. Blocks of 1,024 overflow a v5e's vector
# memory where heads are 256 wide.
TILE, LONGEST_BLOCK = 128, 512
LONGEST_WINDOW = 2**31 - 1  # tokens: no row is as long
WIDEST_CUDNN_HEAD = 128  # 256 from Hopper on alone


def attend_of_kind(
    kernel: str,
    windows: Sequence[int | None],
    kind,
    row: tuple,
    scale: float,
    softcap: float | None,
) -> jax.Array:
    """Attention as in `attend` of a layer of kind number `kind`, by the window of each kind.

    kind: a number, or a tracer where layers are scanned over: kernels need their window when they
    are compiled, so each one's is there and one of them runs. row: q, k, v and segments.
    """
    distinct = list(dict.fromkeys(windows))
    attends = [
        functools.partial(attend, kernel, window=window, scale=scale, softcap=softcap)
        for window in distinct
    ]
    if len(attends) == 1:
        return attends[0](*row)
    places = jnp.asarray([distinct.index(window) for window in windows])
    return jax.lax.switch(places[kind], attends, *row)


def window_of(windows: Sequence[int | None], kind) -> int | jax.Array | None:
    """The window of a layer of kind number `kind`; a tracer where kinds differ in it."""
    if len(set(windows)) == 1:
        return windows[0]
    return jnp.asarray([LONGEST_WINDOW if window is None else window for window in windows])[kind]


def attend(
    kernel: str,
    q_THD,
    k_TKD,
    v_TKD,
    segments_T,
    window: int | None,
    scale: float,
    softcap: float | None,
) -> jax.Array:
    """Attention (T, H, D) of a row by one of KERNELS; `segments_T` None: one segment.

    `blocks` and `grouped_blocks` differ under vmap, see `attend_in_blocks`. `cudnn` leaves rows
    with segments, caps and heads that it does not take to `blocks`.
    """
    row = q_THD, k_TKD, v_TKD
    if kernel == "splash":
        return _attend_splash(*row, segments_T, window, scale, softcap)
    head_dim = q_THD.shape[-1]
    fits_cudnn = head_dim <= WIDEST_CUDNN_HEAD and head_dim % 8 == 0
    if kernel == "cudnn" and segments_T is None and softcap is None and fits_cudnn:
        return _attend_cudnn(*row, window, scale)
    grouped = kernel == "grouped_blocks"
    return attend_in_blocks(*row, segments_T, window, scale, softcap, grouped)


def attend_masked(q_THD, k_KSD, v_KSD, mask_TS, scale: float, softcap: float | None) -> jax.Array:
    """Attention (T, H, D) under a mask of which places each query sees.

    Keys and values have the heads first, as caches do: a step then copies none of them.
    """
    kv_heads, places, head_dim = k_KSD.shape
    q_KGTD = by_kv_head(q_THD, kv_heads)
    q_KXD = q_KGTD.reshape(kv_heads, -1, head_dim)  # X: queries of all heads that share keys
    products_KXS = scale * jnp.matmul(
        q_KXD, k_KSD.swapaxes(1, 2), preferred_element_type=jnp.float32
    )
    if softcap is not None:
        products_KXS = softcap * jnp.tanh(products_KXS / softcap)
    products_KGTS = products_KXS.reshape(*q_KGTD.shape[:3], places)
    weights = jax.nn.softmax(jnp.where(mask_TS[None, None], products_KGTS, -jnp.inf), axis=-1)
    weights_KXS = weights.astype(v_KSD.dtype).reshape(products_KXS.shape)
    y_KGTD = jnp.matmul(weights_KXS, v_KSD).reshape(q_KGTD.shape)
    return by_token(y_KGTD)


def _attend_cudnn(q_THD, k_TKD, v_TKD, window: int | None, scale: float) -> jax.Array:
    """NVIDIA's fused kernel, which holds no mask."""
    return jax.nn.dot_product_attention(
        q_THD,
        k_TKD,
        v_TKD,
        scale=scale,
        is_causal=True,
        local_window_size=None if window is None else (window - 1, 0),
        implementation="cudnn",
    )


def _attend_splash(
    q_THD, k_TKD, v_TKD, segments_T, window: int | None, scale: float, softcap: float | None
) -> jax.Array:
    """Pallas' fused kernel for TPUs, which holds no mask; anywhere else it is interpreted, slowly.

    The row is lengthened to blocks of one size. What is added comes last, where no query of the
    row sees it, and its results are dropped.
    """
    tokens, heads, _ = q_THD.shape
    kv_heads = k_TKD.shape[1]
    size, longer = _blocks_of_splash(tokens)
    added = [(0, longer - tokens), (0, 0)]
    # The kernel has no scale of its own.
    q_KGTD = jnp.pad(by_kv_head(q_THD * scale, kv_heads), [(0, 0), (0, 0), *added])
    k_KTD, v_KTD = (jnp.pad(x.swapaxes(0, 1), [(0, 0), *added]) for x in (k_TKD, v_TKD))
    ids = () if segments_T is None else (jnp.pad(segments_T, added[0]),)
    whole = (longer, longer)
    one_head: splash_mask.Mask = splash_mask.CausalMask(whole)
    if window is not None:
        one_head = splash_mask.LocalMask(whole, (window - 1, 0), 0)
    mask = splash_mask.MultiHeadMask([one_head] * (heads // kv_heads))

    sizes = splash.BlockSizes(
        block_q=size,
        block_kv=size,
        block_q_dkv=size,
        block_kv_dkv=size,
        block_q_dq=size,
        block_kv_dq=size,
    )

    def run(interpret: bool, q_KGTD, k_KTD, v_KTD, *ids):
        of_group = splash.make_splash_mqa_single_device(
            mask,
            block_sizes=sizes,
            attn_logits_soft_cap=softcap,
            interpret=interpret,
        )
        segments = splash.SegmentIds(*ids, *ids) if ids else None
        return jax.vmap(of_group, in_axes=(0, 0, 0, None))(q_KGTD, k_KTD, v_KTD, segments)

    # Chosen when the program is lowered: a CPU may compile it for a TPU.
    y_KGTD = jax.lax.platform_dependent(
        q_KGTD,
        k_KTD,
        v_KTD,
        *ids,
        tpu=functools.partial(run, False),
        default=functools.partial(run, True),
    )
    return by_token(y_KGTD[:, :, :tokens])


def _blocks_of_splash(tokens: int) -> tuple[int, int]:
    """The tokens of a block, and of as few blocks as hold the row."""
    blocks = -(-tokens // LONGEST_BLOCK)
    size = TILE * -(-tokens // (TILE * blocks))
    return size, blocks * size
