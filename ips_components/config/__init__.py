"""Parameters of IPS config files: typed, checked all at once before a launch, and frozen.

`check_files` finds everything that is wrong with a set of files; `load` gives the config of one
run or raises with all of it; `reference` is the reference page.
"""

from collections.abc import Sequence
from pathlib import Path

from ips_components.config._array import ArrayConfig
from ips_components.config._check import check_files, check_simulation
from ips_components.config._declare import Parameter, declared
from ips_components.config._problems import Findings, Problem
from ips_components.config._reference import SECTIONS, reference
from ips_components.config._run import (
    AnalyticsConfig,
    RunConfig,
    SimulationConfig,
    TimeLoop,
)
from ips_components.config._sections import Platform
from ips_components.errors import ConfigError

__all__ = [
    "SECTIONS",
    "AnalyticsConfig",
    "ArrayConfig",
    "Findings",
    "Parameter",
    "Platform",
    "Problem",
    "RunConfig",
    "SimulationConfig",
    "TimeLoop",
    "check_files",
    "check_simulation",
    "declared",
    "explain",
    "load",
    "reference",
]


def explain(problems: Sequence[Problem]) -> str:
    """All problems as one text, ready for a terminal."""
    count = len(problems)
    head = f"{count} problem{'' if count == 1 else 's'} found before anything was launched"
    return "\n".join([head, *(str(problem) for problem in problems)])


def load(config: Path | str, platform: Path | str) -> RunConfig:
    """Read and check the config of one run.

    Raises
    ------
    ConfigError
        With all that is wrong, not only the first of it.
    """
    found = check_files([Path(config)], Path(platform))
    if found.errors:
        raise ConfigError(explain(found.errors))
    return found.runs[0]
