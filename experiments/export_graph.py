"""The mixed gradient graph of each walk: npz, GraphML, sorted adjacency, statistics.

    python -m experiments.export_graph --config=configs/tiny.py --workdir=runs/demo

Reads the features that the selection reads, and makes those that are not there yet. The graph has
`graph.neighbours` edges a row, whether the walk stores them or not.
"""

from experiments.launch import launch
from g2is_jax.pipeline.graph_export import run

if __name__ == "__main__":
    launch(run)
