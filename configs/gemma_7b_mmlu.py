"""Gemma-7B on MMLU: G2IS at 1 % of a pool, beside LESS, random rows and this project's walk.

    python -m experiments.run_all --config=configs/gemma_7b_mmlu.py:infinity \\
        --workdir=runs/gemma_7b_mmlu_infinity

The pool stands after the colon: infinity, cot or flan. Expected figure: not published for this base
model.

Hardware: one H100 of 80 GB. Expected hours: 3.9, for 100,000 rows of 512 tokens (the paper's pool
sizes are not public), at 40 % of the chip's published numbers; not run, but reckoned by

    python -m experiments.estimate --config=configs/gemma_7b_mmlu.py --chip=h100 --devices=1 \\
        --pool_rows=100000 --mean_tokens=512 --validation_rows=285 --test_rows=14042

Values: configs/reported.py tells which are the paper's, LESS's or free. LESS's: the validation
rows, the whole dev split. The answer is the likeliest letter.
"""

from ml_collections import ConfigDict

from configs.reported import INFINITY, reported


def get_config(pool: str = INFINITY) -> ConfigDict:
    return reported("gemma_7b", "mmlu", pool)
