"""Everything that adapts ipsframework 0.8.1.

Task pools run on current Dask; a run that fails exits non-zero and reports its first cause; nothing
is left behind, however a run ends.

Importing any component module of this package calls :func:`install`. A component of your own that
does not derive from ours gets the same by two lines at the top of its module::

    from ips_components import ips_compat

    ips_compat.install()
"""

import logging

from ips_components.ips_compat import _component, _pool, _quiet, _supervisor
from ips_components.ips_compat._access import prepare_launcher, section_of
from ips_components.ips_compat._calls import answer, wait_first
from ips_components.ips_compat._configs import check_new_framework, run_config
from ips_components.ips_compat._ips import check_version
from ips_components.ips_compat._launch import CoupledPool, CoupledTask, couple_tasks
from ips_components.ips_compat._running_pool import RunningPool, TaskPoolError, running_pool
from ips_components.ips_compat._supervisor import CAUSE
from ips_components.ips_compat._text import describe, split_where, tail
from ips_components.ips_compat._tls import make_credentials

__all__ = [
    "CAUSE",
    "CoupledPool",
    "CoupledTask",
    "RunningPool",
    "TaskPoolError",
    "answer",
    "check_version",
    "couple_tasks",
    "describe",
    "install",
    "make_credentials",
    "prepare_launcher",
    "run_config",
    "running_pool",
    "section_of",
    "split_where",
    "tail",
    "wait_first",
]

_installed = False


def install() -> None:
    """Adapt ipsframework, and take care of the framework that is being built, if one is.

    May be called any number of times. Within ``ips.py``, the first call also checks the config and
    platform files and ends the process when they cannot work.

    Raises
    ------
    UnsupportedVersion
        When the installed ipsframework is outside the supported span.
    """
    global _installed
    if not _installed:
        check_version()
        _component.install()
        _pool.install()
        _installed = True
    supervisor = _supervisor.attach()
    if supervisor is not None:
        framework = logging.getLogger("FRAMEWORK")
        _quiet.silence(framework, supervisor.framework.log_level, reported=supervisor.exits)
        check_new_framework(supervisor)
