"""What a step of training computes otherwise than features do."""

import jax
import pytest

from g2is_jax.data.batches import pad_batch
from g2is_jax.features.gradients import feature_function
from g2is_jax.features.projection import ProjectionConfig
from g2is_jax.training.steps import gradient_function
from tests.support.random_llama import directions, inputs_of, random_examples, random_model

ROWS = 11


@pytest.mark.parametrize("training", [True, False])
def test_rows_go_one_by_one_in_features_alone(training):
    """Attention's loop over the rows, which keeps a row's rounding its own."""
    world = random_model()
    model, adapter, base = world
    batch = pad_batch(random_examples([9] * ROWS), range(ROWS), ROWS, 16)
    projection = ProjectionConfig("sketch", 64, 2)
    if training:
        run, inputs = gradient_function(model), (adapter, base, vars(batch), jax.random.key(0))
    else:
        run = feature_function(model, directions("sgd"), projection)
        inputs = (inputs_of(world, projection), batch.tokens_BT, batch.supervised_BT)
    loops = str(jax.make_jaxpr(run)(*inputs)).count(f"length={ROWS}")
    assert loops == (0 if training else 2 * len(model.config.layers))
