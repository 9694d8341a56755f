"""The figures that benchmarks compute: shares, ratios, distortions, losses, and peaks of memory."""

import dataclasses
import json
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from configs.default import get_config
from experiments.bench import (
    depth,
    devices,
    generate,
    gradients,
    models,
    projection,
    scaling,
    store,
    walk,
    written_store,
)
from experiments.bench.many_devices import count_collectives
from g2is_jax.features.projection import sign_rows, words
from g2is_jax.features.store import StoreConfig, StoreWriter, open_store
from g2is_jax.runs.errors import InputError
from g2is_jax.runs.tensors import to_bytes


def write_workdir(workdir: Path, by: float, chosen: str, reply: str) -> None:
    """Writes a work folder of one stage of each kind, whose numbers are moved by so much."""
    stages = epath.Path(workdir) / "stages"
    with StoreWriter(stages / "features-1", range(3), StoreConfig("float32", 3)) as writer:
        writer.start([np.arange(3)])
        rows = np.eye(3, dtype=np.float32) + np.float32(by) * (np.arange(3) == 1)
        writer.write(0, rows, np.ones(3), np.ones(3))
    for name in ("finetune-1/adapter", "selection-1", "evaluate-1"):
        (stages / name).mkdir(parents=True)
    values = to_bytes({"A": np.array([1.0, -3.0 - by], np.float32)})
    (stages / "finetune-1" / devices.ADAPTER).write_bytes(values)
    (stages / "selection-1" / "selected.jsonl").write_text(chosen)
    rows = [{"loss": 1.0, "reply": "same"}, {"loss": 2.0 - by, "reply": reply}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (stages / "evaluate-1" / "rows.jsonl").write_text(text)


def test_each_kind_of_difference_is_found(tmp_path):
    write_workdir(tmp_path / "first", 0.0, "a", "b")
    write_workdir(tmp_path / "other", 0.5, "A", "B")
    same = devices.differences(tmp_path / "first", tmp_path / "first")
    assert same == {
        **dict.fromkeys(("features", "adapters", "losses"), 0.0),
        "largest": 3.0,
        "selections": [0, 1],
        "replies": [0, 2],
    }
    found = devices.differences(tmp_path / "other", tmp_path / "first")
    assert found["features"] > 0.1
    assert (found["adapters"], found["losses"]) == (0.5, 0.5)
    assert (found["selections"], found["replies"]) == ([1, 1], [1, 2])


def test_a_missing_stage_is_no_equality(tmp_path):
    write_workdir(tmp_path / "first", 0.0, "a", "b")
    (tmp_path / "other" / "stages").mkdir(parents=True)
    with pytest.raises(KeyError, match="finetune-1"):
        devices.differences(tmp_path / "other", tmp_path / "first")


def test_speeds_are_medians_of_pairs():
    """A pair of slow runs does not count; ours over theirs is how much less time it takes."""
    config = generate.BenchConfig(batch=2, prompt_tokens=5, new_tokens=4)
    pairs = [(1.0, 2.0, 2.0, 5.0), (1.0, 2.0, 2.0, 5.0), (50.0, 99.0, 3.0, 4.0)]
    calls = [(side, part) for side in ("ours", "theirs") for part in ("prefill", "whole")]
    found = generate.speeds(dict(zip(calls, zip(*pairs, strict=True), strict=True)), config)
    assert found["ratio"] == {"prefill": 2.0, "generation": 3.0, "whole": 2.5}
    assert found["tokens_per_second"]["ours"] == {"prefill": 10.0, "generation": 6.0, "whole": 4.0}


def test_both_decode_in_the_dtype_asked_for(torch, tmp_path, monkeypatch):
    """Our activations may be others than the weights."""
    import transformers

    config = generate.BenchConfig(hidden=16, layers=1, heads=2, vocabulary=64,
                                  dtype="bfloat16", activations="float32")  # fmt: skip
    generate.write_random_model(str(tmp_path), config)
    loaded: list = []

    def noted(load):
        def loading(*arguments, **named):
            loaded.append(load(*arguments, **named))
            return loaded[-1]

        return loading

    auto = transformers.AutoModelForCausalLM
    monkeypatch.setattr(auto, "from_pretrained", noted(auto.from_pretrained))
    monkeypatch.setattr(generate, "load_model", noted(generate.load_model))
    generate.our_generate(epath.Path(tmp_path), config)
    generate.their_generate(epath.Path(tmp_path), config.dtype)
    (model, base), theirs = loaded
    assert {leaf.dtype for leaf in base.values()} == {jnp.dtype("bfloat16")}
    assert model.settings.activations == "float32"
    assert {parameter.dtype for parameter in theirs.parameters()} == {torch.bfloat16}


def test_settings_are_the_defaults_but_for_the_flags():
    config = generate.BenchConfig(dtype="bfloat16", model="remat=true,attention=splash")
    defaults, found = get_config().model, models.settings_of(config)
    assert (found.dtype, found.activations) == ("bfloat16", "float32")  # of a CPU
    assert (found.remat, found.attention, found.scan) == (True, "splash", None)
    assert found.shard_base == defaults.shard_base
    plain = models.settings_of(generate.BenchConfig(activations="bfloat16"))
    assert (plain.dtype, plain.activations) == ("float32", "bfloat16")
    assert (plain.remat, plain.attention) == (defaults.remat, "blocks")
    assert models._like(7, "unroll", "30") == 30
    with pytest.raises(InputError, match=r"unroll is '3\.5'; give a number"):
        models._like(7, "unroll", "3.5")


def test_growth_is_of_programs_of_the_same_round(monkeypatch):
    """The second round takes three times as long, which is no growth."""
    rounds, order = iter([1.0] * 2 + [3.0] * 2), []

    def built(depth):
        order.append(depth)
        seconds = next(rounds) * depth
        return {"trace": seconds, "compile": seconds**0}, depth

    class Program(int):
        def memory_analysis(self):
            return types.SimpleNamespace(temp_size_in_bytes=10 * self)

    monkeypatch.setattr(depth, "model_of", lambda layers, config: layers)
    monkeypatch.setattr(depth, "build_program", lambda layers: built(Program(layers)))
    monkeypatch.setattr(depth, "serialize", lambda program: (b"x" * program**2,))
    config = depth.BenchConfig(layers="2,6", against=2, repeats=2)
    found = depth.grown(lambda config, layers: (layers, ()), config)
    assert order == [2, 6, 6, 2]
    assert found["trace"] == {2: [2.0, 6.0], 6: [6.0, 18.0]}
    assert found["temporary_bytes"] == {2: 20, 6: 60}
    growth = {cost: ratios[6]["median"] for cost, ratios in found["growth"].items()}
    assert growth == {"trace": 3, "compile": 1, "bytes": 9}
    assert found["growth"]["trace"][6]["high"] == 3
    assert found["growth"]["trace"][2]["low"] == 1


def test_collectives_are_counted():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("data")

    def program(exchange):
        mapped = jax.shard_map(exchange, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
        return jax.jit(mapped).lower(jnp.ones((4, 2))).as_text(dialect="hlo")

    def both(x):
        return jax.lax.psum(x, "data") + jax.lax.ppermute(x, "data", [(0, 0)])

    assert count_collectives(program(jnp.sin)) == 0
    assert count_collectives(program(both)) == 2
    started = "  %a = (f32[2]{0}, f32[2]{0}) all-gather-start(%x), dimensions={0}\n"
    ended = "  %b = f32[2]{0} all-gather-done(%a)\n  %c = f32[2]{0} add(%b, %all-reduce.1)\n"
    assert count_collectives(started + ended) == 1


def test_share_is_what_the_other_does_not_take():
    found = gradients.share([2.0, 4.0, 10.0], [1.0, 3.0, 11.0])
    assert found == pytest.approx({"median": 0.25, "low": -0.1, "high": 0.5})


def test_throughput_is_of_each_side(monkeypatch):
    """The sides do next to nothing, as each of the real ones takes seconds to compile."""
    names = (gradients.PLAIN, gradients.PROJECTED, "rms x2", gradients.WHOLE, gradients.SQUARES)
    quick = {name: (jax.jit(lambda inputs, *batch: jnp.sin(inputs)), jnp.ones(3)) for name in names}
    monkeypatch.setattr(gradients, "sides", lambda config, subject: quick)
    subject = models.read_subject("skills", 3, models.FLOAT32)
    config = gradients.BenchConfig(batch=2, tokens=9, repeats=2)
    found = gradients.throughput(config, subject)
    assert found["against_plain"][gradients.PLAIN]["median"] == 1
    assert all(len(times) == 2 for times in found["seconds"].values())
    lines = gradients.throughput_lines(found, dataclasses.asdict(config))
    assert [line.split("  ")[0] for line in lines[1:6]] == list(names)


def test_lengths_have_a_tail():
    lengths = models.lognormal_lengths(500, 96)
    assert 8 <= min(lengths) < 20
    assert max(lengths) == 96
    assert 28 <= np.median(lengths) <= 36
    assert models.lognormal_lengths(3, 4) == [4, 4, 4]


def test_distortion():
    """Every pair is off by 0.1 but one of 780, which is off by 0.5 and no longer nearest."""
    truth_NN = np.eye(40) + np.arange(1600).reshape(40, 40) / 1e5
    truth_NN = np.triu(truth_NN) + np.triu(truth_NN, 1).T
    found_NN = truth_NN + 0.1
    found_NN[0, 39] -= 0.6
    found_NN[39, 0] -= 0.6
    found = projection.distortion(truth_NN, [found_NN, found_NN])
    assert found["rms"] == pytest.approx(np.sqrt((779 * 0.01 + 0.25) / 780))
    assert found["percentile"] == pytest.approx(np.percentile([0.1] * 1558 + [0.5] * 2, 99.9))
    assert found["overlap"] == pytest.approx(1 - 1 / 80)  # one of two, in one row of 40
    assert projection.distortion(truth_NN, [truth_NN])["overlap"] == 1


def test_nearest_leave_the_row_itself_out():
    chosen = projection.top(np.eye(20) + np.arange(20)[None, :] / 100)
    np.testing.assert_array_equal(chosen.sum(axis=1), 1)
    np.testing.assert_array_equal(chosen.argmax(axis=1), [19] * 19 + [18])


def test_against_dense():
    dense = {"rms": 0.2, "percentile": 0.4, "overlap": 0.9}
    found = projection.against({"rms": 0.1, "percentile": 0.5, "overlap": 0.8}, dense)
    assert found == pytest.approx({"rms": 0.5, "percentile": 1.25, "overlap": -0.1})


def test_all_signs_are_added_up():
    key, width = jnp.asarray([1, 2], jnp.uint32), 64
    total = projection.added_up(projection.our_signs, width, blocks=2)(key)
    table = sign_rows(words(key, 0, 2 * projection.HASHED_ROWS, width), width)
    expected = table.reshape(-1, projection.SIGN_ROWS, width).sum(axis=0)
    np.testing.assert_array_equal(total.reshape(projection.SIGN_ROWS, width), expected)
    other = projection.added_up(projection.their_signs, width, blocks=1)(jax.random.key(0))
    assert set(np.unique(other % 2)) == {0}  # of 32 signs each
    assert np.abs(other).max() <= 32


def test_twice_the_time_for_twice_the_rows_is_no_loss(monkeypatch):
    seconds = {1: [1.0, 2.0], 2: [2.0, 4.0], 4: [8.0, 16.0], 8: [4.0, 8.0]}
    monkeypatch.setattr(scaling, "alternate", lambda calls, repeats: seconds)
    found = scaling.efficiency(lambda count: lambda: None, scaling.BenchConfig(devices=11))
    ratios = {count: ratio["median"] for count, ratio in found["efficiency"].items()}
    assert ratios == {2: 1, 4: 0.5, 8: 2}


def test_hidden_share():
    """A pass of 10 seconds does not hide 0.5 of 2 of writing; a slow round does not count."""
    passes = [store.Pass(10.5, 2.0), store.Pass(13.0, 2.0), store.Pass(10.2, 2.0)]
    found = store.hiding(passes, [10.0, 10.0, 10.0])
    assert found == pytest.approx({"hidden": 0.75, "longer": 0.05})


def test_rms_error_is_of_pairs():
    truth_NN = np.eye(3)
    found_NN = truth_NN + np.array([[9, 0.3, 0], [0.3, 9, 0.4], [0, 0.4, 9]])
    assert store.rms_error(found_NN, truth_NN) == pytest.approx(0.5 / np.sqrt(3))


def test_written_chunks_are_the_rows(tmp_path):
    features_NP = written_store.random_features(10, 16)
    folder = epath.Path(tmp_path / "store")
    last = written_store.write_chunks(folder, 10, "float32", 4, features_NP.__getitem__)
    assert last.writing >= 0
    assert last.elapsed > 0
    norms_N1 = np.linalg.norm(features_NP, axis=1, keepdims=True)
    np.testing.assert_allclose(open_store(folder).read()[:], features_NP / norms_N1, atol=1e-6)
    again = written_store.write_chunks(folder, 10, "float32", 4, features_NP.__getitem__)
    assert again == (0, 0)  # nothing is left to do


def test_one_kill(tmp_path):
    """A process is killed in its second chunk of three, which takes long."""
    config = store.BenchConfig(width=16, rows=10, chunk_rows=4, chunks=3, kills=1, seconds=0.001)
    slow = dataclasses.replace(config, seconds=60.0)
    assert store.killed(slow, tmp_path / "store", after=0.1) == 1
    assert store.done_marks(tmp_path / "store") == 0
    store.finish(config, tmp_path / "store")
    assert store.done_marks(tmp_path / "store") == 3
    assert len((tmp_path / written_store.STARTED).read_text().split()) == 4


def test_the_front_takes_fewer_reads_and_growth_spends_the_whole_budget(monkeypatch):
    """The front begins to save reads with 32 rows, of which a sixteenth are two."""
    monkeypatch.setattr(walk, "STEPS", (0.5, 1.0))
    monkeypatch.setattr(walk.select, "FRONT", 20)
    config = walk.BenchConfig(parts="front,growth", rows=120, width=16, components=3, budget=0.5,
                              slots=2, repeats=1)  # fmt: skip
    result = walk.run(config)
    front = result["front"]
    assert front["rows"] == 60
    assert front["passes"]["front"] < front["passes"]["whole"]
    assert {name: growth["sizes"] for name, growth in result["growth"].items()} == {
        "rows": [60, 120],
        "width": [8, 16],
        "budget": [30, 60],
    }
    half, whole = result["growth"]["budget"]["passes"]
    assert 60 / 3 <= whole > half  # at least a read for each row of a component
    table = walk.table(result)
    assert "times as long" in table
    assert "growth with budget: exponent" in table


def test_memory_counts_a_copy(monkeypatch):
    """A walk that copies its features twice has at least three times their size as its peak."""
    config = walk.BenchConfig(rows=20000, width=512, components=3, budget=1e-4, slots=2)
    assert walk.memory(config)["peak_over_features"] < 1.3
    gradient_walk = walk.Problem.walk

    def copying(self, slots):
        values = self.rows.values_NP
        copies = [values + 1, values + 2]
        return gradient_walk(dataclasses.replace(self, budget=len(copies)), slots)

    monkeypatch.setattr(walk.Problem, "walk", copying)
    assert walk.memory(config)["peak_over_features"] > 2.8
