"""A parameter of the analytics' section reaches the run without being named on its way."""

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

from ips_components.config import AnalyticsConfig
from ips_components.coordination import RunSettings
from ips_components.ips.analytics_pool import AnalyticsPool

CONFIG = AnalyticsConfig(port="ANALYTICS", section="PCA", analysis="module:function")
MADE_OF_IT = {"arrays", "results", "task_log"}


def settings_of(config):
    pool = object.__new__(AnalyticsPool)  # nothing is started
    pool.config, pool.run_config = config, SimpleNamespace(n_steps=3)
    pool.run_dir, pool._state, pool._windows = Path("/run"), "", ""
    return pool._settings_of("r1", ())


def test_values_of_the_config_are_those_of_the_run():
    config = replace(CONFIG, replay_bytes=4096, slot_bytes=8192, memory_share=0.125, attach=False)
    settings = settings_of(config)
    assert (settings.replay_bytes, settings.slot_bytes) == (4096, 8192)
    assert (settings.memory_share, settings.attach) == (0.125, False)
    shared = {each.name for each in fields(RunSettings) if hasattr(config, each.name)}
    assert shared > MADE_OF_IT
    for name in shared - MADE_OF_IT:
        assert getattr(settings, name) == getattr(config, name), name


def test_what_is_made_of_the_config():
    settings = settings_of(replace(CONFIG, results_format="netcdf", task_log=True))
    assert settings.results == "/run/results.nc"
    assert settings.task_log.startswith("/run/")
    assert settings.arrays is None
