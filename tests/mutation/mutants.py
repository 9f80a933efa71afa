"""Small wrong changes to a source file, by the operators of cosmic-ray; changes of annotations alone are left out."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

PACKAGES = {
    "sampling": "runtime/ffrt/sampling",
    "stages": "runtime/ffrt/stages",
    "bundle": "runtime/ffrt/bundle",
    "memory": "runtime/ffrt/memory",
    "media": "runtime/ffrt/media",
    "passes": "graphs/passes",
    "training": "export/training",
}


@dataclass(frozen=True)
class Mutant:
    """The `occurrence`-th place in `file` that `operator` can change, on line `line` (from 1)."""

    file: str
    operator: str
    occurrence: int
    line: int


def mutants(root: Path, package: str) -> Iterator[Mutant]:
    """All of a package, in a fixed order."""
    for path in sorted((root / PACKAGES[package]).glob("*.py")):
        tree, file = get_ast(path.read_text()), str(path.relative_to(root))
        for name in sorted(operator_names()):
            kind = get_operator(name)
            if kind.arguments():  # of a variable by its name
                continue
            places = [start for node in ast_nodes(tree) for start, _ in kind().mutation_positions(node)]
            yield from (Mutant(file, name, index, line) for index, (line, _) in enumerate(places))


def mutated(source: str, mutant: Mutant) -> str | None:
    """The changed source, or None where nothing that runs was changed."""
    changed: str | None = mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)
    if changed is None or running(changed) in (running(source), ""):
        return None
    return changed


@cache
def running(source: str) -> str:
    """The syntax tree without annotations and what only type checkers see; "" for what is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ""
    nothing = ast.Constant(None)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = [ast.Pass()]
        if isinstance(node, ast.AnnAssign | ast.arg):
            node.annotation = nothing
        if isinstance(node, ast.FunctionDef):
            node.returns = nothing
    return ast.dump(tree)


def difference(source: str, changed: str) -> list[str]:
    """The lines that went (-) and came (+)."""
    lines = difflib.unified_diff(source.splitlines(), changed.splitlines(), n=0, lineterm="")
    return [line for line in lines if line[0] in "+-" and not line.startswith(("+++", "---"))]


def in_function(source: str, line: int) -> bool:
    """Whether the line runs when a function is called, not when the module is imported."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return any(
        node.body[0].lineno <= line <= (-1 if node.end_lineno is None else node.end_lineno) for node in functions
    )
