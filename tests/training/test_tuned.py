"""Adapters as they are tuned today: the paper's settings, a base in bfloat16, PEFT's logits."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from g2is_jax.data.batches import TrainingShapes
from g2is_jax.model.adapters import write_adapter
from g2is_jax.model.build import build_model
from g2is_jax.model.lora import LoraConfig
from g2is_jax.training.fit import FitConfig, fit
from tests.support.tiny_models import BFLOAT16, both, lora_config, oracle_logits, random_leaves
from tests.support.tiny_models import logits as logits_of
from tests.support.tiny_training import ADAMW, log_of, random_rows, tiny_model

ROWS = random_rows((13, 6, 16, 9, 2, 14, 8, 11, 16))
IDS = [str(row) for row in range(len(ROWS))]
SHAPES = TrainingShapes(((4, 16),))
CONFIG = FitConfig(3, 4, 64, 1, False, dataclasses.replace(ADAMW, weight_decay=0.0))


def test_papers_adapter_on_a_base_in_bfloat16(tmp_path):
    """The settings: all linear layers, r=128, alpha=512, dropout 0.1, cosine, 3 epochs, remat."""
    lora = LoraConfig(128, 512.0, 0.1, ("all-linear",), rslora=False)
    settings = dataclasses.replace(BFLOAT16, remat=True)
    model = build_model(tiny_model().config, lora, settings)
    base = {k: v.astype(model.dtype) for k, v in random_leaves(model.base_shapes).items()}
    optimizer = dataclasses.replace(CONFIG.optimizer, learning_rate=2e-3)
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    adapter, _ = fit(model, base, ROWS, SHAPES, config, 5, epath.Path(tmp_path), IDS)
    assert {path.split(".")[3] for path in adapter} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    for path, leaf in model.init_adapter(5).items():
        assert adapter[path].dtype == jnp.float32
        assert (adapter[path] != leaf).mean() > 0.5, path
    losses = np.reshape([line["loss"] for line in log_of(tmp_path)], (3, 3)).mean(axis=1)
    assert losses[-1] < 0.97 * losses[0]


# peft 0.21 asks transformers 5.23 for a property that it has deprecated.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_tuned_here_read_by_peft(torch, tmp_path):
    from peft import PeftModel

    lora = lora_config("q_proj", "down_proj", dropout=0.25, rslora=True)
    theirs, model, base = both(torch, tmp_path / "base", "llama", lora, num_hidden_layers=1)
    folder = epath.Path(tmp_path / "fit")
    adapter, _ = fit(model, base, ROWS, SHAPES, CONFIG, 5, folder, IDS)
    tokens_T = np.concatenate([row.tokens_T for row in ROWS])
    plain_TV = oracle_logits(torch, theirs, tokens_T)
    write_adapter(epath.Path(tmp_path / "adapter"), adapter, model, "base")
    adapted = PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    expected_TV = oracle_logits(torch, adapted, tokens_T)
    assert np.abs(expected_TV - plain_TV).max() > 0.1
    found_TV = logits_of(model, adapter, base, tokens_T)
    np.testing.assert_allclose(found_TV, expected_TV, rtol=0, atol=1e-4)
