"""The fields of classes that some code reads: a look at its text, by the annotated types."""

import ast
import re
from collections.abc import Iterable, Iterator

Types = dict[str, str | None]  # name -> class; of a container, that of its elements
Named = ast.FunctionDef | ast.AsyncFunctionDef


def fields_read(texts: Iterable[str]) -> set[tuple[str, str]]:
    """Returns (class, field) of every read in these files, but where a class checks itself."""
    trees = [ast.parse(text) for text in texts]
    reader = _Reader(trees)
    for tree in trees:
        reader.file(tree)
    return reader.found


class _Reader:
    """Walks code with the types of its names.

    members: (class, field or method) -> class. returned: of functions, by their bare names.
    """

    def __init__(self, trees: list[ast.Module]):
        nodes = [node for tree in trees for node in ast.walk(tree)]
        classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
        functions = [part for tree in trees for part in tree.body if isinstance(part, Named)]
        self.classes = {node.name for node in classes}
        self.members: dict[tuple[str, str], str | None] = {}
        for node in classes:
            for part in node.body:
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                    self.members[node.name, part.target.id] = self.annotated(part.annotation)
                elif isinstance(part, Named):
                    self.members[node.name, part.name] = self.annotated(part.returns)
        self.returned: Types = {name: name for name in self.classes}
        self.returned |= {node.name: self.annotated(node.returns) for node in functions}
        self.of_lambdas: dict[ast.expr, str | None] = {}  # from the functions that take them
        self.takes: dict[str, list[str | None]] = {}  # arguments of the functions of one file
        self.found: set[tuple[str, str]] = set()

    def file(self, tree: ast.Module) -> None:
        """Notes the reads within a file."""
        self.takes = {
            node.name: [self.annotated(argument.annotation) for argument in node.args.args]
            for node in tree.body
            if isinstance(node, Named)
        }
        self.scope(tree, {})

    def annotated(self, node: ast.expr | None) -> str | None:
        """Returns the class of an annotation, where it has just one of ours."""
        names = set(re.findall(r"\w+", ast.unparse(node))) if node else set()
        ours = names & self.classes
        return ours.pop() if len(ours) == 1 else None

    def scope(self, node: ast.AST, types: Types, within: str | None = None) -> None:
        """Notes the reads within a node; `types`: of the names there, which it adds to."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                self.scope(child, dict(types), child.name)
            elif isinstance(child, Named | ast.Lambda):
                if getattr(child, "name", "") != "__post_init__":
                    self.scope(child, types | self.arguments(child, within))
            else:
                types |= self.bound(child, types)
                if isinstance(child, ast.Call) and isinstance(child.func, ast.Name):
                    takes = self.takes.get(child.func.id, [])
                    self.of_lambdas.update(zip(child.args, takes, strict=False))
                if isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Load):
                    self.found.add((self.type_of(child.value, types) or "", child.attr))
                self.scope(child, types)

    def arguments(self, function: Named | ast.Lambda, within: str | None) -> Types:
        """Returns the types of a function's arguments."""
        arguments = function.args
        if isinstance(function, ast.Lambda):
            return {a.arg: self.of_lambdas.get(function) for a in arguments.args}
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        return {a.arg: within if a.arg == "self" else self.annotated(a.annotation) for a in every}

    def bound(self, node: ast.AST, types: Types) -> Types:
        """Returns the types of the names that a statement or comprehension binds."""
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            return {node.target.id: self.annotated(node.annotation)}
        pairs: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(node, ast.Assign):
            pairs = [(node.targets[0], node.value)]
        elif isinstance(node, ast.For):
            pairs = [(node.target, node.iter)]
        elif isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            pairs = [(part.target, part.iter) for part in node.generators]
        single = (single for pair in pairs for single in _single(*pair))
        return {target: self.type_of(value, types) for target, value in single}

    def type_of(self, node: ast.expr, types: Types) -> str | None:
        """Returns the class of an expression's value, or of its elements."""
        if isinstance(node, ast.Name):
            return types.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self.type_of(node.value, types) or ""
            return self.members.get((owner, node.attr))
        if isinstance(node, ast.Subscript | ast.Starred):
            return self.type_of(node.value, types)
        if isinstance(node, ast.IfExp):
            return self.type_of(node.body, types) or self.type_of(node.orelse, types)
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name):
                return self.returned.get(called.id)
            if isinstance(called, ast.Attribute):
                if called.attr in ("items", "values", "get"):
                    return self.type_of(called.value, types)
                if ast.unparse(called) == "dataclasses.replace":
                    return self.type_of(node.args[0], types)
                return self.type_of(called, types) or self.returned.get(called.attr)
        return None


def _single(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """Yields the names of a target, each with the expression that it is bound to."""
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple):
        values = [value] * len(target.elts)
        if isinstance(value, ast.Tuple):
            values = value.elts
        elif isinstance(value, ast.Call) and ast.unparse(value.func) == "zip":
            values = value.args
        for part, expression in zip(target.elts, values, strict=False):
            yield from _single(part, expression)
