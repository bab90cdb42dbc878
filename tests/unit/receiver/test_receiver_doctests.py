"""The examples in the docstrings of the receiver."""

import doctest
import importlib
import pkgutil

import pytest

from ips_components import receiver


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(receiver.__path__)])
def test_examples(name):
    module = importlib.import_module(f"ips_components.receiver.{name}")
    assert doctest.testmod(module).failed == 0
