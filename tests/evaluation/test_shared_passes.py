"""Eight devices share the rows of a forward pass, and find what one does."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.eight_devices import run_on_eight_devices
from tests.support.without_torch import hide_torch

RUNS = {  # devices, shard_base, scan
    "one": (1, False, False),
    "scanned": (1, False, True),
    "eight": (8, False, False),
    "shared base": (8, True, False),
    "shared and scanned": (8, True, True),
}
LENGTHS = (14, 2, 9, 15, 10, 16, 5, 7, 13, 3, 11)
NEW_TOKENS = 6
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 8,
}


def gathered(lowered) -> list[list[int]]:
    """Shapes of all arrays that the program gathers; a program that has run is compiled already."""
    found = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather\(", lowered.compile().as_text())
    return sorted([int(side) for side in shape.split(",") if side] for shape in found)


def main(folder: Path) -> None:
    """Likelihoods, replies and hidden states of each run, and where they were computed."""
    from etils import epath

    from g2is_jax.data.chat import Encoded
    from g2is_jax.evaluation.likelihood import batches, likelihood_function, likelihoods
    from g2is_jax.features.hidden_states import extract_hidden
    from g2is_jax.features.store import StoreConfig, StoreWriter, open_store
    from g2is_jax.model.build import build_model, devices_of, mesh_of
    from g2is_jax.model.generate import Prompts, Stops, decoding_functions, generate
    from g2is_jax.model.sampling import GenerateConfig, row_keys
    from g2is_jax.runs.mesh import data_mesh
    from tests.support.tiny_models import (
        FLOAT32,
        config_of,
        lora_config,
        random_leaves,
        random_tokens,
    )

    rows = [
        Encoded(tokens_T, np.arange(len(tokens_T)) >= len(tokens_T) // 2, False)
        for tokens_T in map(random_tokens, LENGTHS, range(len(LENGTHS)))
    ]
    prompts = Prompts(np.zeros((8, 9), np.int32), np.zeros((8, 9), bool), np.arange(8, dtype="i4"))
    for place, row in enumerate(rows[:7]):  # the eighth is empty
        tokens_T = row.tokens_T[:9]
        prompts.tokens_BT[place, : len(tokens_T)] = tokens_T
        prompts.mask_BT[place, : len(tokens_T)] = True
    greedy, results = GenerateConfig(NEW_TOKENS, temperature=0.0, top_p=1.0, seed=0), {}
    for name, (devices, shard_base, scan) in RUNS.items():
        settings = dataclasses.replace(FLOAT32, shard_base=shard_base, scan=scan)
        model = build_model(config_of("llama", **SIZES), lora_config("q_proj"), settings)
        adapter = model.adapter_layout.stacked(random_leaves(model.adapter_shapes))
        base = model.base_layout.stacked(random_leaves(model.base_shapes, 1))
        mesh = data_mesh() if devices > 1 else None
        if mesh is not None:
            base = model.placed(base, mesh)
        found = likelihoods(model, adapter, base, rows, 64)
        batch = next(batches("rows", rows, 64, model.config.max_position_embeddings, devices))
        replies = generate(model, adapter, base, prompts, greedy, Stops((), ()), str)
        store = epath.Path(folder / name)
        with StoreWriter(store, range(len(rows)), StoreConfig("float32", 4)) as writer:
            extract_hidden(model, base, rows, 64, writer)
        prefill, advance = decoding_functions(model, 0.0, 1.0, (), mesh)
        lengths_B, keys_B = prompts.mask_BT.sum(axis=1, dtype=np.int32), row_keys(0, np.arange(8))
        inputs = (prompts.tokens_BT, lengths_B, keys_B)
        state = prefill(adapter, base, *inputs, room=9 + NEW_TOKENS)
        cache = state.caches[0][0]
        decoding = (adapter, base, state, np.zeros(8, bool), 1, NEW_TOKENS)
        results[name] = {
            "gathered in likelihoods": gathered(
                likelihood_function(model, mesh).lower(
                    adapter, base, batch.tokens_BT, batch.supervised_BT
                )
            ),
            "gathered in decoding": gathered(advance.lower(*decoding, chunk=NEW_TOKENS)),
            "devices": devices_of(mesh_of(base)),
            "sums": found.sums_M.tolist(),
            "counts": found.counts_M.tolist(),
            "greedy": found.greedy_M.tolist(),
            "replies": [reply.tokens for reply in replies],
            "hidden": open_store(store).read()[:].tolist(),
            "rows of the cache": sorted(
                {shard.data.shape[0] for shard in cache.addressable_shards}
            ),
        }
    (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    return run_on_eight_devices(__file__, tmp_path_factory.mktemp("devices"))


@pytest.mark.parametrize("name", [name for name in RUNS if name != "one"])
def test_devices_find_what_one_finds(results, name):
    ours, alone = results[name], results["one"]
    for field in ("counts", "greedy", "replies"):
        assert ours[field] == alone[field]
    for field in ("sums", "hidden"):
        np.testing.assert_allclose(ours[field], alone[field], rtol=1e-5, atol=1e-6)
    assert len(set(map(tuple, alone["replies"]))) > 2


def test_each_device_with_the_whole_base_has_rows_of_its_own(results):
    assert {name: of["devices"] for name, of in results.items()} == {
        "one": 1,
        "scanned": 1,
        "eight": 8,
        "shared base": 8,
        "shared and scanned": 8,
    }
    assert {tuple(of["rows of the cache"]) for of in results.values()} == {(1,), (8,)}
    assert results["shared and scanned"]["rows of the cache"] == [1]


@pytest.mark.parametrize("name", ["shared base", "shared and scanned"])
def test_decoding_sends_tokens_round_and_leaves_the_weights_where_they_are(results, name):
    """Long rows gather the weights, one layer at a time; decoding gathers its eight tokens."""
    weights = [[32, 32], [16, 32], [40, 32], [32, 40]]
    in_layers = [shape for shape in results[name]["gathered in likelihoods"] if shape in weights]
    assert len(in_layers) == (7 if "scanned" in name else 14)
    assert results[name]["gathered in decoding"]
    assert all(8 in shape for shape in results[name]["gathered in decoding"])
    assert max(map(np.prod, results[name]["gathered in decoding"])) < 32 * 32


def test_whole_bases_gather_nothing(results):
    assert results["eight"]["gathered in likelihoods"] == []
    assert results["eight"]["gathered in decoding"] == []


if __name__ == "__main__":
    hide_torch()
    main(Path(sys.argv[1]))
