"""Pre-trains the built-in base model.

    python -m experiments.pretrain_skills --config=configs/skills_base.py --workdir=runs/skills_base

A run that was killed goes on from the newest checkpoint when the same command is run again.
"""

from experiments.launch import launch
from g2is_jax.pipeline.pretraining import run

if __name__ == "__main__":
    launch(run)
