"""Eight devices share the rows of a forward pass, and find what one does."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.eight_devices import run_on_eight_devices

RUNS = {"one": (1, False), "eight": (8, False), "shared base": (8, True)}  # devices, shard_base
LENGTHS = (14, 2, 9, 15, 10, 16, 5, 7, 13, 3, 11)
NEW_TOKENS = 6
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "head_dim": 8,
}


def two_rows() -> tuple[np.ndarray, np.ndarray]:
    """A batch that the devices do not share, of nothing in particular."""
    return np.zeros((2, 8), np.int32), np.ones((2, 8), bool)


def main(folder: Path) -> None:
    """Likelihoods, replies and hidden states of each run, and where they were computed."""
    import jax
    from etils import epath

    from g2is_jax.data.chat import Encoded
    from g2is_jax.evaluation.likelihood import likelihood_function, likelihoods
    from g2is_jax.features.hidden_states import extract_hidden
    from g2is_jax.features.store import StoreConfig, StoreWriter, open_store
    from g2is_jax.model.build import build_model
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

    jax.config.update("jax_disable_most_optimizations", True)
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
    for name, (devices, shard_base) in RUNS.items():
        settings = dataclasses.replace(FLOAT32, shard_base=shard_base)
        model = build_model(config_of("llama", **SIZES), lora_config("q_proj"), settings)
        adapter, base = random_leaves(model.adapter_shapes), random_leaves(model.base_shapes, 1)
        if devices > 1:
            base = model.placed(base, data_mesh())
        found = likelihoods(model, adapter, base, rows, 64)
        replies = generate(model, adapter, base, prompts, greedy, Stops((), ()), str)
        store = epath.Path(folder / name)
        with StoreWriter(store, range(len(rows)), StoreConfig("float32", 4)) as writer:
            extract_hidden(model, base, rows, 64, writer)
        prefill, _ = decoding_functions(model, 0.0, 1.0, ())
        lengths_B, keys_B = prompts.mask_BT.sum(axis=1, dtype=np.int32), row_keys(0, np.arange(8))
        inputs = model.spread(base, (prompts.tokens_BT, lengths_B, keys_B))
        cache = prefill(adapter, base, *inputs, room=9 + NEW_TOKENS).caches[0][0]
        lowered = likelihood_function(model).lower(adapter, base, *two_rows())
        gathered = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather\(", lowered.compile().as_text())
        results[name] = {
            "gathered": [len(shape.split(",")) for shape in gathered],
            "devices": model.row_devices(base),
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


@pytest.mark.parametrize("name", ["eight", "shared base"])
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
        "eight": 8,
        "shared base": 1,
    }
    assert results["eight"]["rows of the cache"] == [1]


def test_a_shared_base_stays_where_it_is(results):
    """The gathered arrays have rows, tokens and values: none is a weight."""
    assert results["shared base"]["gathered"]
    assert set(results["shared base"]["gathered"]) == {3}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
