"""The sweeps of experiments/ablate.py and lds.py, by name: a new sweep is a new entry.

A list holds the fields that each setting changes; a dictionary of tuples is the grid of all
combinations, the last field varying fastest. Every other field is that of the config.
"""

KEEP = {"knowledge.keep": ("variance",)}  # what keep_value means below

SWEEPS: dict[str, dict[str, tuple] | list[dict]] = {
    # Projected width: of the pass, and 1/2, 1/4, 1/8 of it; one gradient pass serves them all.
    "width": {"grads.folds": (0, 1, 2, 3)},
    "rows": {"grads.dtype": ("float32", "bfloat16", "int8", "bits")},  # a pass for each
    "delta": {"walk.delta": (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)},
    "keep": KEEP | {"knowledge.keep_value": (0.3, 0.5, 0.7, 0.9)},
    "pull": {"walk.pull": (0.0, 0.25, 0.5, 0.75, 1.0)},
    "budget": {"selection.unit": ("fraction",), "selection.budget": (0.02, 0.05, 0.1)},
    "neighbours": [
        {"graph.kind": "exact"},
        *({"graph.kind": "knn", "graph.neighbours": count} for count in (10, 30, 100, 300)),
    ],
    "checkpoints": {"warmup.keep_checkpoints": (0,), "grads.checkpoints": (1, 2, 4)},
    # Kind x curvature x width, for experiments.lds.
    "features": [
        {"grads.kind": kind, "grads.folds": folds, **curvature}
        for kind in ("sgd", "adam", "adam_less", "rms", "sign")
        for folds in (0, 2)
        for curvature in (
            {"grads.precondition": "none", "grads.damping": 1.0},
            {"grads.precondition": "pool", "grads.damping": 0.1},
            {"grads.precondition": "pool", "grads.damping": 1.0},
            {"grads.precondition": "pool", "grads.damping": 10.0},
        )
    ],
    # Of these, what foretold most for each kind, and kinds as they are.
    "curvature": {
        "grads.kind": ("sgd", "adam", "adam_less", "rms", "sign"),
        "grads.precondition": ("none", "pool"),
    },
    # Gradients of the adapter, and of the base's own layers by sides of K rows.
    "layers": [
        {"grads.of": "adapter", "grads.layer_width": 16, "grads.precondition": "none"},
        *(
            {"grads.of": "layers", "grads.layer_width": K, "grads.precondition": precondition}
            for K in (4, 8, 16, 32)
            for precondition in ("none", "diagonal")
        ),
    ],
    # These two train a warm-up for each setting.
    "warmup": {"warmup.fraction": (0.02, 0.05, 0.1, 0.2)},
    "rank": [{"lora.rank": rank, "lora.alpha": 2.0 * rank} for rank in (2, 4, 8, 16)],
    # How much a selection owes to the random projection, and to the rows and order of the warm-up.
    "projection_seed": {"projection.seed": (0, 1, 2, 3, 4)},
    "warmup_seed": {"warmup.seed": (0, 1, 2, 3, 4)},
    # What a walk of all directions together may do, for the search of the default.
    "walks": {
        "knowledge.keep": ("variance",),
        "knowledge.keep_value": (0.7, 0.9, 1.0),
        "walk.fairness": (0.5, 1.0, 4.0),
        "walk.conflict_worth": (0.8, 1.0),
    },
    # Rule 5 forbids rows that pull apart; drift rewards what cancels beside the target.
    "drift": {"walk.drift": (0.0, 0.5, 1.0, 2.0), "walk.conflict_tolerance": (0.0, 1.0)},
    # One selection for all of a run's targets, against one of each one's rows in turn.
    "targets": {"selection.targets": ("joint", "merged")},
    # 4 widths x 4 deltas x 3 shares of variance: 48 selections after one gradient pass.
    "paper_grid": {
        "grads.folds": (0, 1, 2, 3),
        "walk.delta": (0.5, 0.7, 0.8, 0.9),
        **KEEP,
        "knowledge.keep_value": (0.3, 0.5, 0.7),
    },
}
