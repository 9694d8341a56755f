"""Sentence embeddings by any Hugging Face encoder, in PyTorch on the CPU: the extra [embed]."""

import importlib
import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from g2is_jax.data.batches import Batch, row_lengths
from g2is_jax.data.chat import ROWS_PER_CALL, Encoded
from g2is_jax.data.encoded_rows import EncodedRows, Encoder
from g2is_jax.data.optional import import_optional
from g2is_jax.features.extract import extract
from g2is_jax.features.gradients import FeatureBatch
from g2is_jax.features.store import StoreWriter
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.processes import process_share

UNUSED = ("pooler.",)  # weights that mean pooling does without


@dataclass(frozen=True, eq=False)
class SentenceEncoder:
    """An encoder and its tokenizer, as transformers loads them. longest: tokens of a text."""

    tokenizer: Any
    model: Any
    longest: int

    def encode(self, texts: Iterable[str]) -> EncodedRows:
        """Returns the tokens of texts, special ones included; a longer text loses its end."""
        encoder, remaining = Encoder(), iter(texts)
        while some := list(itertools.islice(remaining, ROWS_PER_CALL)):
            ids = self.tokenizer(some, truncation=True, max_length=self.longest)["input_ids"]
            tokens = [np.asarray(of_text, np.int32) for of_text in ids]
            encoder.add(Encoded(x, np.zeros(len(x), bool), False) for x in tokens)
        return encoder.rows()

    def embed(self, tokens_BT: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """Returns the mean of each text's last hidden states (B, D), float32; zero for a text of no
        tokens. Padding is not counted."""
        torch = import_torch()
        filled_B = lengths_B > 0
        features_BD = np.zeros((len(lengths_B), self.model.config.hidden_size), np.float32)
        if not filled_B.any():
            return features_BD
        mask_BT = np.arange(lengths_B.max()) < lengths_B[filled_B, None]
        padding = self.tokenizer.pad_token_id or 0
        ids_BT = np.where(mask_BT, tokens_BT[filled_B, : lengths_B.max()], padding)
        mask = torch.from_numpy(mask_BT.astype(np.int64))
        with torch.inference_mode():
            ids = torch.from_numpy(ids_BT.astype(np.int64))
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            sums = hidden.masked_fill(mask[:, :, None] == 0, 0).sum(dim=1)
            features_BD[filled_B] = (sums / mask.sum(dim=1, keepdim=True)).numpy()
        return features_BD


def import_torch() -> Any:
    """Returns PyTorch; where it is not there, InputError names the extra."""
    return import_optional("torch", "embed.encoder: an encoder runs in PyTorch", "embed")


def load_encoder(folder: epath.Path) -> SentenceEncoder:
    """Returns the encoder of a folder; InputError where transformers cannot make one of it."""
    torch, place = import_torch(), os.fspath(folder)
    transformers = importlib.import_module("transformers")  # which takes seconds
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, local_files_only=True)
        model, loaded = transformers.AutoModel.from_pretrained(
            place,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise InputError(
            f"embed.encoder: {folder} cannot be loaded as an encoder ({reason}); give a folder or "
            "hub id that transformers' AutoModel and AutoTokenizer load without code of its own"
        ) from error
    missing = sorted(key for key in loaded["missing_keys"] if not key.startswith(UNUSED))
    if missing:
        raise InputError(
            f"embed.encoder: {folder} lacks {len(missing)} weights of its model, {missing[0]} "
            "first; give a whole encoder"
        )
    if model.config.is_encoder_decoder:
        raise InputError(
            f"embed.encoder: {folder} holds an encoder with a decoder; give one without"
        )
    places = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    return SentenceEncoder(tokenizer, model.eval(), min(tokenizer.model_max_length, places))


def extract_embeddings(
    folder: epath.Path,
    texts: Iterable[str],
    supervised_N: np.ndarray,
    batch_tokens: int,
    writer: StoreWriter,
) -> dict:
    """Writes one row for each text to the store, as `extract` does; all processes share the work.

    Rows get length 1 there; gradient norms are zeros. supervised_N: the supervised tokens that the
    store keeps beside them.
    """
    encoder = load_encoder(folder)
    encoded = encoder.encode(texts)
    lengths_N = row_lengths(encoded)

    def compute(batch: Batch) -> FeatureBatch:
        real_B = batch.rows_B >= 0
        lengths_B = np.where(real_B, lengths_N[batch.rows_B], 0)
        features_BD = encoder.embed(batch.tokens_BT, lengths_B)
        tokens_B = np.where(real_B, supervised_N[batch.rows_B], 0)
        return FeatureBatch(features_BD[None], np.zeros(len(lengths_B), np.float32), tokens_B)

    return extract(compute, encoded, [writer], batch_tokens, "embeddings", share=process_share())
