"""Every example in the docstrings of the model runs."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

from ips_components import model

MODULES = sorted(m.name for m in pkgutil.iter_modules(model.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"{model.__name__}.{name}")
    names = {public: getattr(model, public) for public in model.__all__}
    result = doctest.testmod(module, extraglobs={**names, **vars(module), "np": np})
    assert result.failed == 0
