"""Finds the fields of a config that transformers' own model acts on, in its source text.

The source is read as text: importing it would need torch.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

# What models of every family share: rotary embedding, masks, caches, attention, loading.
SHARED_CONFIGS = ("configuration_utils.py", "modeling_rope_utils.py", "integrations/heterogeneity")
SHARED_MODELS = (
    "cache_utils.py",
    "integrations/flash_attention.py",
    "integrations/flex_attention.py",
    "integrations/sdpa_attention.py",
    "masking_utils.py",
    "modeling_flash_attention_utils.py",
    "modeling_layers.py",
    "modeling_utils.py",
    "utils/generic.py",
    "utils/output_capturing.py",
)


def fields_acted_on(config_class: type) -> set[str]:
    """Returns the names of the fields that the class, or a model with such a config, reads.

    Names that other objects have too may be among them; a field that is not is read by nothing.
    Raises OSError where the source is not there.
    """
    return {*_acted_on(config_class.__module__), *getattr(config_class, "attribute_map", {})}


@functools.cache
def _acted_on(module_name: str) -> frozenset[str]:
    import transformers

    package = Path(str(transformers.__file__)).parent
    *folders, module = module_name.split(".")[1:]
    family = package.joinpath(*folders)
    configs = [family / f"{module}.py", *_files(package, SHARED_CONFIGS)]
    models = [family / f"{module.replace('configuration', 'modeling')}.py"]
    models += _files(package, SHARED_MODELS)
    names = {name for file in configs for name in _read_in(file, in_config=True)}
    names |= {name for file in models for name in _read_in(file, in_config=False)}
    return frozenset(names)


def _files(package: Path, names: tuple[str, ...]) -> list[Path]:
    places = [package / name for name in names]
    return [file for place in places for file in ([place] if place.suffix else place.glob("*.py"))]


@functools.cache
def _read_in(file: Path, in_config: bool) -> frozenset[str]:
    """Returns the names that a file reads of a config: `config.NAME`, `getattr(config, "NAME")`.

    in_config: it holds the classes of configs, so that `self.NAME` and `"NAME" in kwargs` count.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(name for node in ast.walk(tree) for name in _names(node, in_config))


def _names(node: ast.AST, in_config: bool) -> Iterator[str]:
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        if _is_config(node.value, in_config):
            yield node.attr
    elif isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        if called in ("getattr", "hasattr") and _is_config(node.args[0], in_config):
            yield from _constant(node.args[1])
        elif in_config and called.endswith((".get", ".pop", ".setdefault")) and node.args:
            yield from _constant(node.args[0])
    elif in_config and isinstance(node, ast.Compare):
        yield from _constant(node.left)
    elif in_config and isinstance(node, ast.Subscript):
        yield from _constant(node.slice)


def _is_config(node: ast.expr, in_config: bool) -> bool:
    """Tells whether an expression is a model's config, by its name."""
    owner = ast.unparse(node)
    others = ("generation_config", "quantization_config", "load_config", "kernel_config")
    if in_config and owner == "self":
        return True
    return "config" in owner and not any(name in owner for name in others)


def _constant(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
