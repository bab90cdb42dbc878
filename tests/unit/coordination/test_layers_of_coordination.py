"""The modules of the package import each other in one direction, for annotations as well."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from ips_components import coordination

PACKAGE = coordination.__name__
DIRECTORY = Path(coordination.__file__).parent


def imported_by(path):
    """Names of the package's own modules that a module imports, wherever in its text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.module == PACKAGE:
            yield from (alias.name for alias in node.names)
        elif (node.module or "").startswith(f"{PACKAGE}."):
            yield node.module.removeprefix(f"{PACKAGE}.")


def test_no_two_modules_import_each_other():
    modules = {path.stem: path for path in DIRECTORY.glob("*.py") if path.stem != "__init__"}
    order = TopologicalSorter(
        {name: set(imported_by(path)) & modules.keys() for name, path in modules.items()}
    ).static_order()
    assert set(order) == set(modules)
