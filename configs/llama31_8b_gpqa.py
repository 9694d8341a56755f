"""Llama-3.1-8B on GPQA: G2IS at 1 % of a pool, beside LESS, random rows and this project's walk.

    python -m experiments.run_all --config=configs/llama31_8b_gpqa.py:infinity \\
        --workdir=runs/llama31_8b_gpqa_infinity

The pool stands after the colon: infinity, cot or flan. Expected figure, published for
Infinity-Instruct at 1 %: G2IS 31.57, LESS 29.94, full data 29.74. Of the CoT pool only the mean
over the five targets is public (G2IS 49.31), of FLAN nothing.

Hardware: one H100 of 80 GB. Expected hours: 1.6, for 100,000 rows of 512 tokens (the paper's pool
sizes are not public), at 40 % of the chip's published numbers; not run, but reckoned by

    python -m experiments.estimate --config=configs/llama31_8b_gpqa.py --chip=h100 --devices=1 \\
        --pool_rows=100000 --mean_tokens=512 --validation_rows=100 --test_rows=448

Values: configs/reported.py tells which are the paper's, LESS's or free. Free: 100 validation rows
from outside the main set, which is the test. The answer is the likeliest letter.
"""

from ml_collections import ConfigDict

from configs.reported import INFINITY, reported


def get_config(pool: str = INFINITY) -> ConfigDict:
    return reported("llama31_8b", "gpqa", pool)
