"""What a module defines, found out without importing it."""

import ast
import importlib.util
import os
import sys
from pathlib import Path


def find_source(module: str, beside: str = "") -> tuple[Path | None, str]:
    """Find the file of a module without importing it; the second value is what is wrong."""
    path = [beside, *sys.path] if beside else sys.path
    for directory in path:
        parts = Path(directory or ".", *module.split("."))
        for candidate in (parts.with_suffix(".py"), parts / "__init__.py"):
            if candidate.is_file():
                return candidate, ""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        return None, f"there is no module {module!r} ({error})"
    if spec is None:
        return None, f"there is no module {module!r} in {os.pathsep.join(path[:3])}, ..."
    return (Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None), ""


def changes_path(source: Path) -> bool:
    """Whether a Python file seems to change where Python looks for modules."""
    try:
        return "sys.path" in source.read_text()
    except (OSError, ValueError):
        return True


def parsed(source: Path | None) -> ast.Module | None:
    """Return the syntax tree of a Python file; None when there is no file to read.

    Raises
    ------
    SyntaxError
        When it is not Python.
    """
    if source is None:
        return None
    try:
        return ast.parse(source.read_bytes(), filename=str(source))
    except (OSError, ValueError):
        return None


def top_level_names(source: Path | None) -> set[str] | None:
    """Names that a Python file defines; None when that cannot be known without running it."""
    try:
        tree = parsed(source)
    except SyntaxError:
        tree = None
    if tree is None:
        return None
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((each.asname or each.name).split(".")[0] for each in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return None if names & {"*", "__getattr__"} else names
