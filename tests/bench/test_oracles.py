"""The other sides of the benchmarks: they are right, and a run stops where both sides differ."""

import dataclasses
import functools
import json
import tracemalloc

import jax
import numpy as np
import pytest

from experiments.bench import against_peft, graph, knowledge, less, models, packing, padding, walk
from experiments.bench.plain_walk import plain_walk
from g2is_jax.features.projection import ProjectionConfig
from g2is_jax.model.lora import LoraConfig
from g2is_jax.runs.errors import InputError
from g2is_jax.skills.world import BASE_FOLDER

WALK = walk.BenchConfig(parts="graph", rows=120, width=16, components=3, neighbours=2, budget=0.2,
                        slots=2, repeats=2)  # fmt: skip
RAW = models.RANDOM | {"vocab_size": 53, "hidden_size": 24, "intermediate_size": 34, "head_dim": 6,
                       "num_hidden_layers": 1, "num_attention_heads": 4,
                       "num_key_value_heads": 2}  # fmt: skip


@functools.cache
def subject() -> models.Subject:
    lora = LoraConfig(3, 6.0, 0.0, ("k_proj", "o_proj"), rslora=False)
    return models.make_subject("tiny", RAW, lora, models.FLOAT32)


@pytest.mark.parametrize("case", walk.CASES)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_plain_walk_chooses_the_same_rows(case, dtype):
    """Both choose the same in every case, also of rows in low precision."""
    config = dataclasses.replace(WALK, case=case, dtype=dtype)
    found = walk.against_graph(config)
    assert found["rows"] == sum(found["reasons"].values()) > 3
    assert found["budget"] == 24
    falls_back = found["reasons"].get("fallback", 0)
    assert falls_back >= found["rows"] / 3 if case == "fallback" else falls_back == 0


def test_few_fallbacks_are_no_measurement_of_them():
    """No row is chosen from beyond a list that holds the whole pool."""
    config = dataclasses.replace(WALK, case="fallback", neighbours=119)
    with pytest.raises(InputError, match="only 0 of"):
        walk.against_graph(config)
    with pytest.raises(InputError, match="--neighbours is 120"):
        dataclasses.replace(config, neighbours=120)


def test_other_rows_are_no_measurement(monkeypatch):
    monkeypatch.setattr(walk, "plain_walk", lambda *arguments: [0, 1])
    with pytest.raises(RuntimeError, match="closest decision"):
        walk.against_graph(WALK)


def test_plain_walk_by_hand():
    """Degrees from the direction: 5 first, then the nearest each time; -70 conflicts with 40."""
    radians = np.radians([40, 5, 15, -70, 15])
    rows_NP = np.stack([np.cos(radians), np.sin(radians)], axis=1)
    assert plain_walk(rows_NP, [[1.0, 0.0]], [5], 0.0) == [1, 2, 4, 0]
    assert plain_walk(rows_NP, [[1.0, 0.0], [0.0, -1.0]], [2, 2], 0.0) == [1, 2, 3, 4]
    # The sum of 5 and 15 is 10 degrees off, 20 with 40: cos 20 / cos 10 is 0.954.
    assert plain_walk(rows_NP[:3], [[1.0, 0.0]], [3], 0.95) == [1, 2, 0]
    assert plain_walk(rows_NP[:3], [[1.0, 0.0]], [3], 0.96) == [1, 2]


def test_plain_walk_on_stored_neighbours_by_hand():
    """The walk goes from 5 to 40, its only neighbour; from there, as 5 is used, to 15, nearest to 0
    of all and not to 40; to -25, the unused one of its two; and at last to 20."""
    radians = np.radians([40, 5, 15, 20, -25])
    rows_NP = np.stack([np.cos(radians), np.sin(radians)], axis=1)
    near_NE = np.array([[1, 1], [0, 0], [1, 4], [0, 1], [0, 1]])
    assert plain_walk(rows_NP, [[1.0, 0.0]], [5], 0.0, near_NE) == [1, 0, 2, 4, 3]
    assert plain_walk(rows_NP, [[1.0, 0.0]], [5], 0.0) == [1, 2, 3, 0, 4]


def test_plain_walk_holds_one_matrix_of_cosines():
    """It holds less than a tenth more than the matrix and the copy of the features."""
    rows_NP = np.random.default_rng(0).standard_normal((2000, 200), dtype=np.float32)
    tracemalloc.start()
    plain_walk(rows_NP, rows_NP[:1], [2], 0.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    both = 4 * 2000**2 + rows_NP.nbytes
    assert both <= peak < 1.1 * both


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_numpy_finds_the_same_neighbours(dtype, monkeypatch):
    monkeypatch.setattr(graph.neighbours, "BLOCK", 16)
    config = graph.BenchConfig(dtype=dtype, rows=40, width=12, neighbours=5, repeats=1)
    found = graph.against_numpy(config)
    assert found["largest_difference"] < 1e-6
    assert found["same_places"] == 1


def test_numpy_sorts_and_breaks_ties_by_index():
    features_NP = np.eye(4)[[0, 1, 0, 1, 0]]
    assert graph.plain(features_NP, 2)[0].tolist()[0] == [2, 4]
    assert graph.plain(features_NP, 4)[0].tolist()[1] == [3, 0, 2, 4]


def test_other_neighbours_are_no_measurement(monkeypatch):
    right = graph.plain
    monkeypatch.setattr(graph, "plain", lambda rows, E: right(rows[::-1], E))
    with pytest.raises(RuntimeError, match="another set"):
        graph.against_numpy(graph.BenchConfig(rows=40, width=12, neighbours=5))


def test_both_find_the_same_directions():
    found = knowledge.against_sklearn(knowledge.BenchConfig(rows=24, width=60, repeats=1))
    assert found["largest_difference"] < 1e-5


def test_another_number_of_directions_is_no_measurement(monkeypatch):
    ours = knowledge.ours
    monkeypatch.setattr(knowledge, "ours", lambda features_MP, keep: ours(features_MP, 0.99))
    with pytest.raises(ValueError, match="scikit-learn's"):
        knowledge.against_sklearn(knowledge.BenchConfig(rows=24, width=60))


def test_another_loss_is_no_measurement(monkeypatch):
    losses = {False: 10.0, True: 10.1}
    monkeypatch.setattr(packing, "epoch_of", lambda *given: (lambda: losses[given[-1]], {}))
    monkeypatch.setattr(packing, "subject_of", lambda *given: subject())
    with pytest.raises(RuntimeError, match=r"10\.1 packed and 10\.0 padded"):
        packing.measure("stories", packing.BenchConfig(parts="stories", tokens=24))


def our_directions(rows) -> np.ndarray:
    return models.pass_over(subject(), "adam_less", ProjectionConfig("none", 0, 1), rows, 64)()


@pytest.mark.usefixtures("torch")
def test_torch_loop_has_our_directions():
    rows = models.random_rows([16, 12, 11], RAW["vocab_size"])
    loop = less.LessLoop(subject(), 256, less.INTEGERS)
    theirs = np.stack([loop.direction(row).numpy() for row in rows])
    ours = our_directions(rows)
    error = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
    assert theirs.shape == (3, subject().values)
    assert error.max() <= 1e-4


@pytest.mark.usefixtures("torch")
def test_torch_loop_projects():
    """A cached matrix holds the same signs as those made anew; all norms are kept on average."""
    rows = models.random_rows([8] * 18, RAW["vocab_size"])
    anew, cached = (less.LessLoop(subject(), 300, draw) for draw in (less.INTEGERS, "cached"))
    cached.matrix = anew._signs(0).new_tensor(
        np.concatenate([anew._signs(start).clone().numpy() for start in anew.starts], axis=1)
    )
    found, kept = anew.features(rows), cached.features(rows)
    assert found.shape == (18, 300)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(np.unique(cached.matrix.numpy()), [-1, 1])
    np.testing.assert_allclose(found, kept, rtol=2e-3, atol=1e-2 * np.abs(kept).max())
    norms = np.linalg.norm(our_directions(rows), axis=1)
    ratios = np.linalg.norm(found.astype(np.float32), axis=1) / 300**0.5 / norms
    np.testing.assert_allclose(ratios, 1, atol=0.25)


@pytest.mark.usefixtures("torch")
def test_blocks_not_timed_are_estimated(monkeypatch):
    clock = iter(range(0, 100, 5))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    loop = less.LessLoop(subject(), 8 * less.COLUMNS, less.INTEGERS, blocks=2)
    loop.features(models.random_rows([8] * 17, RAW["vocab_size"]))
    assert loop.missing == 2 * 5 * 3  # two stacks, 5 seconds each, for 2 of 8 blocks


def test_kept_whole_is_the_same_feature():
    sketch = ProjectionConfig("sketch", 64, 2)
    batch = models.full_batch(subject(), 2, 9)
    function, inputs = models.features_of(subject(), "rms", sketch)
    ours = function(inputs, *batch)
    features_BP, squares_B = models.kept_whole(subject(), "rms", sketch)(inputs, *batch)
    largest = np.abs(features_BP).max()
    np.testing.assert_allclose(features_BP, ours.features_KBP[0], atol=1e-4 * largest)
    np.testing.assert_allclose(squares_B**0.5, ours.gradient_norms_B, rtol=1e-5)


PEFT = against_peft.BenchConfig(dtype="float32", rank=3, rows=2, tokens=9, width=64, repeats=3)


def test_peft_trains_the_same_adapter(checkpoint):
    """Every leaf has our gradient, and AdamW's steps on both sides lead to the same place."""
    task = against_peft.read_task(dataclasses.replace(PEFT, checkpoint=checkpoint))
    model, adapter, base = task.subject.model, task.subject.adapter, task.subject.base
    gradient = against_peft.gradient_function(model)
    found, loss, tokens = gradient(adapter, base, vars(task.batch), jax.random.key(0))
    assert task.peft.gradient() == pytest.approx(float(loss / tokens), rel=1e-5)
    theirs = task.peft.read(gradient=True)
    assert found.keys() == theirs.keys()
    for path, leaf in found.items():
        error = np.linalg.norm(leaf / tokens - theirs[path]) / np.linalg.norm(theirs[path])
        assert error <= 1e-4, path
    measured = against_peft.training(PEFT, task)
    assert measured["moved_cosine"] > 0.999
    moved = np.abs(against_peft.flat(task.peft.read(gradient=False)) - against_peft.flat(adapter))
    steps = PEFT.repeats + 1
    assert 0.8 * steps < np.median(moved) / against_peft.OPTIMIZER.learning_rate < 1.2 * steps


def test_other_work_is_no_measurement(checkpoint, monkeypatch):
    """Our features are compared with torch's gradient, and our gradient and loss with torch's."""
    task = against_peft.read_task(dataclasses.replace(PEFT, checkpoint=checkpoint))
    other = {path: 1.3 * leaf for path, leaf in task.subject.adapter.items()}
    task.peft.load(other)
    assert against_peft.features(PEFT, task)["cosine"] > 0.999  # begins with our adapter
    task.peft.load(other)
    monkeypatch.setattr(task.peft, "load", lambda adapter: None)
    for part in (against_peft.training, against_peft.features):
        with pytest.raises(RuntimeError, match="not the same work"):
            part(PEFT, task)
    ones_G = np.ones(3)
    assert against_peft.agreement("float32", ones_G, ones_G, 1e-5)["cosine"] == pytest.approx(1)
    for apart in ((ones_G, 1.1 * ones_G), (ones_G, -ones_G), (ones_G, ones_G, 1e-3)):
        with pytest.raises(RuntimeError, match="not the same work"):
            against_peft.agreement("float32", *apart)


def test_padding_is_of_the_pool_given(tmp_path):
    """Padding by hand: rows of known lengths, each alone in a batch as wide as it."""
    plans = [padding.Plan(np.array([row]), 1, width) for row, width in enumerate((8, 16, 16))]
    found = padding.described(plans, np.array([8, 12, 16]))
    assert found == {"padding": pytest.approx(0.1), "shapes": 2, "batches": 3}
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(
        json.dumps({"id": str(n), "messages": [{"role": "user", "content": "word " * n},
                                               {"role": "assistant", "content": "yes"}]}) + "\n"
        for n in (1, 5, 90)))  # fmt: skip
    config = padding.BenchConfig(pool=str(pool), tokenizer=str(BASE_FOLDER), tokens=64)
    lengths = padding.lengths_of(config)
    assert lengths[0] < lengths[1] < lengths[2] == 64
    found = padding.passes(dataclasses.replace(config, rows=1))["a pass over 1 rows"]["many widths"]
    width = -(-lengths[0] // 8) * 8
    assert found == {"padding": pytest.approx(1 - lengths[0] / width), "shapes": 1, "batches": 1}
