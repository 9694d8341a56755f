"""Pre-training of the built-in base model, shipped in `g2is_jax/skills/base`.

    python -m experiments.pretrain_skills --config=configs/skills_base.py --workdir=runs/skills_base

0.8 M parameters; about 30 minutes on 2 cores. All values are ours.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 2400
    config.batch_size = 64  # tasks a step
    config.microbatch_tokens = 4096  # tokens a forward pass, padding included
    config.learning_rate = 3e-3
    config.warmup = 0.03  # share of the steps in which the rate rises
    config.weight_decay = 0.01
    config.b2 = 0.98
    config.house_share = 0.35  # how often a task follows the house convention
    config.composed_share = 0.15  # how often a task is a composition of two families
    config.tokenizer_tasks = 20000  # tasks that the tokenizer is trained on
    config.checkpoint_every = 400  # steps

    config.decoder = ConfigDict()  # a Hugging Face config.json
    config.decoder.model_type = "llama"
    config.decoder.architectures = ("LlamaForCausalLM",)
    config.decoder.vocab_size = 640
    config.decoder.hidden_size = 128
    config.decoder.intermediate_size = 352
    config.decoder.num_hidden_layers = 4
    config.decoder.num_attention_heads = 4
    config.decoder.num_key_value_heads = 2
    config.decoder.head_dim = 32
    config.decoder.rope_theta = 10000.0
    config.decoder.rms_norm_eps = 1e-5
    config.decoder.tie_word_embeddings = True
    config.decoder.max_position_embeddings = 256
    return config
