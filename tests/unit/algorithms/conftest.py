"""Graphs are small here: compute them in this thread, where errors and profiles are plain."""

import dask
import pytest


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield
