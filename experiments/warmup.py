"""Warm-up: LoRA fine-tuning on a random share of the pool, once a seed.

python -m experiments.warmup --config=configs/tiny.py --workdir=runs/demo
"""

from experiments.launch import launch
from g2is_jax.pipeline.warmup_stage import run

if __name__ == "__main__":
    launch(run)
