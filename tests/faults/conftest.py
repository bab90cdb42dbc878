"""The same workflows as in ``tests/ips``."""

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "ips_conftest", Path(__file__).parents[1] / "ips" / "conftest.py"
)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
workflow = _module.workflow
