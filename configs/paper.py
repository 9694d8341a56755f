"""G2IS as its paper's released script computes it, under the name g2is: 1 % of a pool.

From features that were made elsewhere, (N, P) of the pool and (M, P) of the validation rows, in
seconds and without a model:

    python -m experiments.select_subset --config=configs/paper.py --workdir=OUT \\
        --train_features=F.npy --validation_features=V.npy --pool=pool.jsonl

From a model, with random rows to compare with:

    python -m experiments.run_all --config=configs/paper.py --workdir=OUT \\
        --config.model.checkpoint=MODEL --config.data.pool=pool.jsonl \\
        --config.data.validation=val_x.jsonl --config.data.test=test_x.jsonl \\
        --config.run.methods=none,random,g2is

The paper's numbers (Llama-3.1-8B, Infinity-Instruct, 1 %): BBH 64.78, GPQA 31.57, GSM8K 62.02,
MATH 20.96, MMLU 63.42. A run from the model at that size needs a GPU with the memory of an 8B
model; its hours were not measured. Adapter, epochs and schedule are the paper's; warm-up,
projection and lengths are LESS's, which the paper follows; the rate and the batch of the last
training are free, as it states neither. The walk stops where no row is valid, so that it may
choose fewer rows than the budget.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.grads.kind = config.paper.kind
    config.projection.kind = "rademacher"  # LESS
    config.knowledge.update(config.paper.knowledge)
    config.graph.update(config.paper.graph)
    config.walk.update(config.paper.walk)
    config.selection.budget = 0.01
    config.run.methods = "g2is"
    return config
