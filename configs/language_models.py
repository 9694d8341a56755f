"""The comparison on a real language model: every method, four targets, 2 % of 3,000 rows.

    python -m experiments.run_all --config=configs/language_models.py --workdir=runs/smollm2 \\
        --config.model.checkpoint=HuggingFaceTB/SmolLM2-135M-Instruct

The settings are for models of 0.1 to 0.3 B parameters; docs/results.md says where the files come
from, and docs/log.md how learning rate and epochs of the fine-tune were chosen.
"""

from ml_collections import ConfigDict

from configs import default

TARGETS = ("gsm8k", "mmlu", "bbh_boolean_expressions", "bbh_logical_deduction_three_objects")


def get_config() -> ConfigDict:
    """The config, but for the checkpoint."""
    config = default.get_config()
    config.model.max_length = 512
    config.data.pool = "data/pool3k.jsonl"
    config.data.validation = ",".join(f"data/val_{target}.jsonl" for target in TARGETS)
    config.data.test = ",".join(f"data/test_{target}.jsonl" for target in TARGETS)
    config.lora.rank = 16
    config.lora.alpha = 32.0
    config.lora.dropout = 0.0
    config.warmup.learning_rate = 2e-4
    config.warmup.batch_size = 16
    config.finetune.learning_rate = 5e-4
    config.finetune.batch_size = 8
    config.finetune.epochs = 2
    config.finetune.keep_epochs = False
    for training in (config.warmup, config.finetune):
        training.microbatch_tokens = 2048
    config.grads.batch_tokens = 2048
    config.grads.of = "layers"  # once for all seeds, which are of the fine-tune then
    config.grads.less_kind = config.paper.kind = "sgd"  # every method has the same features
    config.evaluate.batch_tokens = 2048
    config.evaluate.new_tokens = 0
    config.selection.budget = 0.02
    config.run.methods = (
        "none,random,length,bm25,dsir,rds_plus,less,less_rr,bids,gist,knn_even,tsds_knn,tsds_kde,"
        "uot,coverage,pursuit,gip,loss_drop,embed,g2is_paper,g2is"
    )
    config.run.seeds = "0,1,2"
    return config
