"""Gradient features of the pool and of the validation rows, once a seed and checkpoint.

python -m experiments.extract_features --config=configs/tiny.py --workdir=runs/demo
"""

from experiments.launch import launch
from g2is_jax.pipeline.extraction import run

if __name__ == "__main__":
    launch(run)
