"""What changes inside the process of a component: it cannot be orphaned, nor orphan its tasks.

Every task goes through :mod:`~ips_components.ips_compat.guard`; an answer that cannot be pickled
reaches the framework as a failure that says so, instead of getting lost in a queue.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from ips_components.errors import ConfigError
from ips_components.ips_compat import _launch, _quiet, guard
from ips_components.ips_compat._ips import Component, ServicesProxy, TaskPool, ipsutil
from ips_components.ips_compat._queues import PickleCheckedQueue

_LONGEST_PAUSE = 0.1
"""Seconds for which IPS's portal bridge may sleep; a run waits for the last pause."""

terminating = threading.Event()
"""Set in a component's process that was asked to end: the framework answers no more."""


def _terminate(signum: int, _frame: object) -> NoReturn:
    _begin_to_end()
    raise SystemExit(128 + signum)


def _begin_to_end() -> None:
    """Ignore further requests to end: an exception would interrupt what runs at the exit."""
    terminating.set()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _prepare_process(component: Component) -> None:
    """First thing in a component's process: tie its life to the framework's."""
    guard.die_with_parent(signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        os._exit(1)  # the framework died before the kernel was asked to send a signal
    # Ctrl-C reaches the whole foreground group; the framework alone answers it, and ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _terminate)
    logger = component.services.logger
    _quiet.silence(logger, logger.level, reported=False)
    component.services.fwk_in_q = PickleCheckedQueue(component.services.fwk_in_q)
    if type(component).__name__ == "PortalBridge":
        # It looks for events every 0.5 s, and sleeps a second after the last one of the run.

        def sleep(pause: float) -> None:
            if not component.done:
                time.sleep(min(pause, _LONGEST_PAUSE))

        vars(sys.modules[type(component).__module__])["time"] = SimpleNamespace(
            **{**vars(time), "sleep": sleep}
        )


# What ipsframework's classes do by themselves.
_run, _terminate_component = Component.__run__, Component.terminate
_launch_task, _launch_pool = ServicesProxy.launch_task, ServicesProxy.launch_task_pool
_add_task = TaskPool.add_task
_send_event, _time_loop = ServicesProxy._send_monitor_event, ServicesProxy.get_time_loop
_copy_files = ipsutil.copyFiles


@wraps(_run)
def __run__(self: Component) -> None:
    _prepare_process(self)
    try:
        _run(self)
    except SystemExit:
        conclude = getattr(self, "conclude_terminated", None)
        if conclude is not None and terminating.is_set():
            with suppress(Exception):  # what is left is to end
                conclude()
        raise


@wraps(_copy_files)
def copy_files(source: str, names: Any, *args: Any, **keywords: Any) -> None:
    # A list of names is cut at spaces, also the path of the platform file, which is one name.
    is_one = isinstance(names, str) and Path(source, names).is_file()
    _copy_files(source, [names] if is_one else names, *args, **keywords)


@wraps(_terminate_component)
def terminate_component(self: Component, status: int) -> None:
    _begin_to_end()
    _terminate_component(self, status)


@wraps(_launch_task)
def launch_task(
    self: ServicesProxy,
    nproc: int,
    working_dir: str,
    binary: str,
    *args: Any,
    **keywords: Any,
) -> int:
    return int(_launch_task(self, nproc, working_dir, _launch.unsplit(binary), *args, **keywords))


@wraps(_launch_pool)
def launch_task_pool(self: ServicesProxy, *args: Any, **keywords: Any) -> Any:
    with _launch.within_pool(self, "tasks"):
        return _launch_pool(self, *args, **keywords)


@wraps(_add_task)
def add_unsplit_task(
    self: TaskPool, task_name: str, nproc: int, working_dir: str, binary: Any, *args: Any,
    **keywords: Any,
) -> None:  # fmt: skip
    _add_task(self, task_name, nproc, working_dir, _launch.unsplit(binary), *args, **keywords)


@wraps(_send_event)
def _send_monitor_event(
    self: ServicesProxy, eventType: str = "", comment: str = "", **keywords: Any
) -> None:
    # The portal's log is read line by line: a comment of several lines ends the portal bridge.
    _send_event(self, eventType, " ".join(comment.splitlines()), **keywords)


@wraps(_time_loop)
def get_time_loop(self: ServicesProxy) -> Any:
    try:
        return _time_loop(self)
    except KeyError as error:
        (missing,) = error.args
        what = "no [TIME_LOOP]" if missing == "TIME_LOOP" else f"[TIME_LOOP] without {missing}"
        raise ConfigError(
            f"the config of {self.sim_conf.get('SIM_NAME')} has {what}, and its driver asks "
            "for the times of the loop: give MODE = REGULAR with START, FINISH and NSTEP, or "
            "MODE = EXPLICIT with VALUES"
        ) from None


def install() -> None:
    """Change ipsframework's classes for all components that are created from now on."""
    ipsutil.copyFiles = copy_files
    ServicesProxy.get_time_loop = get_time_loop
    Component.__run__ = __run__
    Component.terminate = terminate_component
    ServicesProxy._send_monitor_event = _send_monitor_event
    ServicesProxy.launch_task = launch_task
    ServicesProxy._launch_task = _launch.launch_task
    ServicesProxy.launch_task_pool = launch_task_pool
    TaskPool.add_task = add_unsplit_task
