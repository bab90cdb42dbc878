"""What the package imports is installed with it, though something else may need it, too."""

import ast
import configparser
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import ips_components

ROOT = Path(ips_components.__file__).parent
# Asked for only where a user has them, or has given something that was made by them.
OPTIONAL = {"IPython", "h5py", "joblib", "skops"}
BESIDE = {"guard"}  # a script that finds this one beside itself


def imported(path):
    """Top-level packages that a module imports when it runs."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name.partition(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


def test_what_is_imported_is_required():
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    lines = setup["options"]["install_requires"].split("\n")
    required = {line.split(maxsplit=1)[0].partition("[")[0].lower() for line in lines if line}
    sources = [p for p in ROOT.rglob("*.py") if "templates" not in p.parts]
    assert len(sources) > 100
    known = {"ips_components", *sys.stdlib_module_names, *OPTIONAL, *BESIDE}
    distributions, missing = packages_distributions(), {}
    for path in sources:
        for name in set(imported(path)) - known:
            if not required & {each.lower() for each in distributions.get(name, [name])}:
                missing.setdefault(name, path.name)
    assert not missing
