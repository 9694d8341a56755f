"""Checkpoints of a training run hold each layer's values under its own path."""

import dataclasses

import jax
import numpy as np
from etils import epath

from g2is_jax.model.build import Model, build_model
from g2is_jax.training.checkpoints import open_checkpoints
from g2is_jax.training.optimizer import adam_direction
from g2is_jax.training.saved import Saved, State, fresh, newest
from tests.support.tiny_models import FLOAT32, config_of, lora_config, random_leaves
from tests.support.tiny_training import ADAMW

TARGETS = ("q_proj", "layers.2.mlp.up_proj")  # the last in one layer of a stack alone


def model_of(scan: bool) -> Model:
    settings = dataclasses.replace(FLOAT32, scan=scan)
    return build_model(config_of("llama", num_hidden_layers=4), lora_config(*TARGETS), settings)


def state_of(model: Model) -> State:
    """A state whose every leaf holds something, the same for both models."""
    layout = model.adapter_layout
    adapter = layout.stacked(random_leaves(layout.shapes))
    direction = adam_direction(ADAMW)
    _, state = direction.update(
        layout.stacked(random_leaves(layout.shapes, 7)), direction.init(adapter), adapter
    )
    return adapter, state


def test_a_run_goes_on_however_layers_lie_in_memory(tmp_path):
    """On another backend layers may be stacked that were not, or the other way round."""
    for scan in (False, True):
        folder = epath.Path(tmp_path / str(scan))
        before, after = model_of(scan), model_of(not scan)
        assert before.adapter_layout.parts != after.adapter_layout.parts
        saved = Saved(before.adapter_layout, folder, keep=None)
        saved.save(3, state_of(before))
        saved.close()
        place = Saved(after.adapter_layout, folder, keep=None)
        done, state = newest([place], fresh(after, ADAMW, seed=0, base={}))
        place.close()
        assert done == 3
        jax.tree.map(np.testing.assert_array_equal, state, state_of(after))


def test_names_are_those_of_the_layers(tmp_path):
    """So a checkpoint of an earlier version, which stacked none, is one of this."""
    model = model_of(scan=True)
    adapter, state = state_of(model)
    saved = Saved(model.adapter_layout, epath.Path(tmp_path), keep=None)
    saved.save(1, (adapter, state))
    saved.close()
    plain = state_of(model_of(scan=False))
    checkpoints = open_checkpoints(epath.Path(tmp_path), keep=None)
    held = checkpoints.restore(1, *plain)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, held, plain)
