"""The demo: the built-in world and its own base model, on a CPU in a few minutes.

    python -m experiments.run_all --config=configs/tiny.py --workdir=runs/demo

One target, one seed, 5 % of 3,456 rows. Training settings are chosen for a model of 0.8 M
parameters; everything else is the default.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.model.checkpoint = "skills"
    config.model.dtype = "float32"
    config.model.activations = "float32"
    config.model.max_length = 128
    config.lora.rank = 8
    config.lora.alpha = 16.0
    config.lora.dropout = 0.0
    config.data.pool = "skills"
    config.world.targets = "sorting_letters"
    for training in (config.warmup, config.finetune):
        training.learning_rate = 3e-3
        training.batch_size = 16
        training.microbatch_tokens = 768
        training.packing = False  # as when the figures of docs/results.md were measured
    config.finetune.epochs = 4
    config.grads.batch_tokens = 2048
    config.grads.dtype = "float32"
    config.projection.kind = "rademacher"  # likewise
    config.projection.width = 2048
    config.evaluate.new_tokens = 64
    config.run.methods = "none,random,length,less,less_rr,g2is_paper,g2is"  # full: two minutes more
    return config
