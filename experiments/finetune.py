"""Fine-tuning of a fresh adapter on each selection.

python -m experiments.finetune --config=configs/tiny.py --workdir=runs/demo
"""

from experiments.launch import launch
from g2is_jax.pipeline.finetune_stage import run

if __name__ == "__main__":
    launch(run)
