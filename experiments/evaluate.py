"""Answer loss and task metrics of the base and of each adapter on the test rows.

python -m experiments.evaluate --config=configs/tiny.py --workdir=runs/demo
"""

from experiments.launch import launch
from g2is_jax.pipeline.scoring import run

if __name__ == "__main__":
    launch(run)
