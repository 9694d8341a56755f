"""PyTorch is not there for transformers, as on a machine that has what a run needs and no more."""

import importlib.util


def hide_torch() -> None:
    """Hides it from this process, which then starts two seconds sooner."""
    find = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *package: (
        None if name == "torch" else find(name, *package)
    )
