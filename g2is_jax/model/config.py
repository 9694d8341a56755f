"""The settings of one decoder: shapes, constants, and the few ways in which families differ."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's stretching of the slow rotary frequencies; lengths in tokens."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class LinearScaling:
    """Position interpolation: every rotary frequency is divided by the factor."""

    factor: float


@dataclass(frozen=True)
class YarnScaling:
    """YaRN's stretching of the slow rotary frequencies, and its factor of cosine and sine."""

    factor: float
    attention_factor: float
    beta_fast: float  # pairs that turn more often in the original length are kept
    beta_slow: float  # pairs that turn less often are stretched by the whole factor
    original_max_position_embeddings: int
    truncate: bool  # the bounds between the two are whole numbers of pairs


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: angles p / theta^(2 i / head_dim), some of them stretched."""

    theta: float
    scaling: Llama3Scaling | LinearScaling | YarnScaling | None


@dataclass(frozen=True)
class LayerConfig:
    """One layer's settings. `window`: tokens that a query sees, itself included; None: all."""

    rope: RopeConfig | None
    window: int | None


@dataclass(frozen=True)
class BlockNorms:
    """The checkpoint's names of a block's norms, by their place; None: there is no norm."""

    before_attention: str | None
    after_attention: str | None
    before_mlp: str | None
    after_mlp: str | None


@dataclass(frozen=True)
class DecoderConfig:
    """One decoder; shapes under the names of Hugging Face's `config.json`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    layers: tuple[LayerConfig, ...]
    norms: BlockNorms
    activation: str  # a key of decoder.ACTIVATIONS
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    unit_offset: bool  # norms multiply by 1 + weight
    query_key_norm: str  # none; head: over each head; all: over all heads at once
    query_scale: float  # multiplies the products of queries and keys
    attention_softcap: float | None  # products are squashed into +- this
    logit_softcap: float | None
    embedding_scale: float
