"""Learning curves: answer loss on validation rows after each epoch of each fine-tune.

python -m experiments.curves --config=configs/tiny.py --workdir=runs/demo
"""

from experiments.launch import launch
from g2is_jax.pipeline.curve_stage import run

if __name__ == "__main__":
    launch(run)
