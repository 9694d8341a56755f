"""Embeddings are those of transformers, whatever batch a text is in."""

import functools
import json

import numpy as np
import pytest
from etils import epath

from g2is_jax.data import optional
from g2is_jax.features.sentence_encoder import extract_embeddings, import_torch, load_encoder
from g2is_jax.features.store import Store, StoreConfig, StoreWriter, open_store
from g2is_jax.runs.errors import InputError
from tests.support.tiny_encoder import vectors, write_encoder

TEXTS = ["work out: 12 + 3", "zebra", "", "which one wins: 1 or 23", "zebra " * 40, "what?"]


@pytest.fixture(scope="module")
def folder(torch, tmp_path_factory):
    return write_encoder(torch, tmp_path_factory.mktemp("encoder"))


def store_of(encoder, place, batch_tokens: int, writer=StoreWriter) -> Store:
    with writer(epath.Path(place), range(len(TEXTS)), StoreConfig("float32", 2)) as opened:
        counts_N = np.arange(3, 3 + len(TEXTS))
        extract_embeddings(epath.Path(encoder), iter(TEXTS), counts_N, batch_tokens, opened)
    return open_store(epath.Path(place))


@pytest.mark.parametrize("batch_tokens", [1, 60, 1000])
def test_rows_are_the_means_of_transformers_states(torch, folder, tmp_path, batch_tokens):
    """A text longer than the encoder takes loses its end; an empty one has its marks alone."""
    store = store_of(folder, tmp_path / "store", batch_tokens)
    np.testing.assert_allclose(store.read()[:], vectors(torch, folder, TEXTS), atol=2e-6)
    np.testing.assert_array_equal(store.tokens_N, np.arange(3, 9))
    assert store.finite_N.all()


def test_a_killed_extraction_goes_on_with_the_same_bytes(folder, tmp_path):
    class Killed(StoreWriter):
        def write(self, index, *parts):
            if index == 1:
                raise KeyboardInterrupt
            super().write(index, *parts)

    store_of(folder, tmp_path / "whole", 1)
    with pytest.raises(KeyboardInterrupt):
        store_of(folder, tmp_path / "killed", 1, Killed)
    store_of(folder, tmp_path / "killed", 1)
    files = {file.name: file.read_bytes() for file in (tmp_path / "whole").iterdir()}
    assert {f.name: f.read_bytes() for f in (tmp_path / "killed").iterdir()} == files


def test_texts_of_no_tokens_are_zero(folder):
    encoder = load_encoder(epath.Path(folder))
    tokens_BT = np.ones((2, 8), np.int32)
    np.testing.assert_array_equal(encoder.embed(tokens_BT, np.zeros(2, int)), 0)
    mixed_BD = encoder.embed(tokens_BT, np.array([0, 3]))
    np.testing.assert_array_equal(mixed_BD[0], 0)
    assert np.linalg.norm(mixed_BD[1]) > 0


def test_an_encoder_without_some_of_its_weights_is_refused(torch, folder, tmp_path):
    """A pooler is not needed; a layer would be random."""
    import safetensors.torch as files

    tensors = files.load_file(folder / "model.safetensors")
    for left_out, message in (("pooler.", None), ("encoder.layer.1.", "lacks 16 weights")):
        place = write_encoder(torch, tmp_path / left_out)
        kept = {name: x for name, x in tensors.items() if not name.startswith(left_out)}
        assert len(kept) < len(tensors)
        files.save_file(kept, place / "model.safetensors", {"format": "pt"})
        if message is None:
            load_encoder(epath.Path(place))
            continue
        with pytest.raises(InputError, match=f"embed.encoder: .*{message} of its model, encoder"):
            load_encoder(epath.Path(place))


def test_folders_that_are_no_encoder_are_refused(folder, tmp_path):
    fields = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"model_type": "no such type"}))
    with pytest.raises(InputError, match=r"cannot be loaded as an encoder \(.*give a folder or"):
        load_encoder(epath.Path(tmp_path))


def test_a_missing_extra_is_named(monkeypatch):
    def absent(library: str):
        raise ImportError(library)

    monkeypatch.setattr(optional.importlib, "import_module", functools.partial(absent))
    with pytest.raises(InputError, match=r'extra \[embed\]: pip install -e "\.\[embed\]"'):
        import_torch()
