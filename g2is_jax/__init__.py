"""Gradient-based selection of instruction data in JAX: G2IS (Zhao et al., ACL 2025) and its rivals.

The rooms, in their order; a room imports only from those before it:

    runs -> data -> skills -> model -> training -> features
         -> selection -> graph -> evaluation -> report -> pipeline -> planning

Beside them are api.py, the library in five functions for notebooks, and commands.py, the command
`g2is`.

Array names end in their axes, one letter each:

    N pool rows        M validation or test rows  B batch or block       T tokens
    D model width      H heads                    K key/value heads      V vocabulary
    R LoRA rank        G flattened LoRA values    F feed-forward width   P projected width
    C core directions  E neighbours of a row

Some letters mean something else in some files:

    D  width of a head (attention's kernels in model), pieces of a direction (features/unit_rows)
    F  heads side by side (model/attention), rows of the front (selection/walk/front)
    G  query heads that share a key/value head (attention's kernels)
    K  directions of Adam or checkpoints (features), rows chosen (selection/walk, report), the best
       of a share (selection/neighbours), bootstrap draws (evaluation/compare)
    L  rows or directions asked for (features/unit_rows and rows_on_disk, selection/rivals), the
       most validation rows of a target (features/cosines), slots (selection/walk), letters
       (evaluation)
    Q  twice the projected width (features/projection)
    R  part of the G values (features/projection), rows that a slot enters (selection/walk)
    S  places of keys (attention's kernels), tokens of all devices (model/sharing), part of the T
       tokens (training/loss) or of the G values (features/projection), sampled rows
       (features/diagnostics, graph, report), stores (features/cosines), sources (selection,
       graph), subtasks (selection/rivals), shares (selection/neighbours), seeds (evaluation,
       report/results_table), sequences (planning)
    W  widths of batches (data/widths), words of sign bits (features/projection), width of a rotated
       row (features/bits) or of checkpoints side by side (features/ordered), rows that wait
       (selection/walk/front)
    X  two axes flattened into one, bytes of a row of bits (features/bits), width of what goes into
       a product (model/product)
    Y  width of what a product comes to (model/product)
"""

import os

# transformers is here for tokenizers and configs alone: that PyTorch is not installed is no news.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
