"""The processes of a framework's components: which have died, and how they are ended."""

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from logging.handlers import SocketHandler
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ips_components.deadlines import Deadline, poll_until
from ips_components.ips_compat import guard
from ips_components.ips_compat._failures import signal_name
from ips_components.ips_compat._ips import Framework
from ips_components.ips_compat._queues import PollingQueue

_OWN_END = 1.0
"""Seconds for components that were asked to end, and for what they have logged to be written."""
_LOOK = 0.02
"""Seconds for a look whether a log is written, where no time is left to wait for it."""
_TERMINATION = 6.0
_STOPPED_LIMIT = 30.0
_KILLED_LIMIT = 5.0


class ComponentProcesses:
    """The processes that a framework has started: components, and the one that writes the log.

    Parameters
    ----------
    framework
        The framework, built or being built.
    queue
        The queue that all of them write to.
    """

    def __init__(self, framework: Framework, queue: PollingQueue) -> None:
        self._framework = framework
        self._queue = queue
        self._stopped_since: dict[int, float] = {}
        self._known_dead: set[str] = set()
        self._stock = {child.pid for child in multiprocessing.active_children()}
        """Components that were started before they could be adapted."""

    @property
    def logger(self) -> BaseProcess | None:
        """The process that writes the log."""
        logger: BaseProcess | None = self._framework.config_manager.log_process
        return logger

    def _all(self) -> Iterator[tuple[Any, BaseProcess]]:
        for simulation in self._framework.config_manager.sim_map.values():
            # IPS appends to both lists in one go; they match index by index.
            yield from zip(simulation.all_comps, simulation.process_list, strict=False)

    # --- deaths -------------------------------------------------------------------------------

    def any_died(self) -> bool:
        """Whether the process of a component has ended, so that it may hold the queue's lock."""
        return any(process.exitcode is not None for _, process in self._all())

    def fate(self, callee: Any) -> str:
        """Why a component cannot answer any more, or ""; one that stays stopped is killed."""
        process = next((p for each, p in self._all() if str(each) == str(callee)), None)
        if process is None:
            return ""
        if process.exitcode is not None:
            if process.exitcode < 0:
                return f"(pid {process.pid}) was ended by {signal_name(process.exitcode)}"
            return f"(pid {process.pid}) ended with exit status {process.exitcode}"
        if guard.state(process.pid) != "T":
            self._stopped_since.pop(process.pid or 0, None)
            return ""
        since = self._stopped_since.setdefault(process.pid or 0, time.monotonic())
        if time.monotonic() - since < _STOPPED_LIMIT:
            return ""
        process.kill()
        return f"(pid {process.pid}) was stopped for {_STOPPED_LIMIT:.0f} s, and then killed,"

    def note_dead(self, component: Any) -> None:
        """Note that the death of a component is known."""
        self._known_dead.add(str(component))

    def new_deaths(self) -> Iterator[str]:
        """Yield what to say of processes that were killed, each once."""
        processes = [(each.class_name, str(each), process) for each, process in self._all()]
        if self.logger is not None:
            processes.append(("", "the process that writes the logs", self.logger))
        for name, identity, process in processes:
            if (process.exitcode or 0) < 0 and identity not in self._known_dead:
                self._known_dead.add(identity)
                whose = f"the process of component {name}" if name else identity
                fate = signal_name(process.exitcode or 0)
                yield f"{whose} (pid {process.pid}) was ended by {fate}"

    # --- components that were made before the first of ours ---------------------------------

    def adapt_stock(self) -> None:
        """Start again, adapted, what was started before; no method of it was called yet.

        IPS starts a component's process when it makes the component. Those that were made before
        the first module called ``install`` lack all that belongs to a component's process.
        """
        registry = self._framework.comp_registry
        for simulation in self._framework.config_manager.sim_map.values():
            pairs = zip(simulation.all_comps, simulation.process_list, strict=False)
            for index, (component_id, process) in enumerate(pairs):
                if process.pid not in self._stock:
                    continue
                self._kill(process)
                for name in ("invocation_q", "svc_response_q"):
                    lock = registry.getComponentArtifact(component_id, name)._rlock
                    lock.acquire(block=False)  # it may have died while it waited for a message
                    lock.release()
                component = registry.getEntry(component_id).component_ref
                again = multiprocessing.Process(target=component.__run__)
                again.start()
                simulation.process_list[index] = again
        self._stock = set()

    # --- the end ------------------------------------------------------------------------------

    def wait_for_own_end(self) -> None:
        """Wait until components that were asked to end have ended, and their log is written.

        IPS sleeps a second instead.
        """
        deadline = Deadline(_OWN_END)
        for _, process in list(self._all()):
            process.join(deadline.left)
        for handler in list(logging._handlerList):
            if isinstance(each := handler(), SocketHandler):
                each.close()
        for simulation in self._framework.config_manager.sim_map.values():
            self.wait_for_log(simulation.log_pipe_name, deadline)
        if self.logger is not None:  # it reads each connection in a thread that ends with it
            threads = Path(f"/proc/{self.logger.pid}/task")
            poll_until(lambda: len(list(threads.glob("*"))) < 2, deadline, pause=0.02)

    def wait_for_log(self, pipe: str, deadline: Deadline | None = None) -> None:
        """Wait until the process that writes the log has taken all connections of a simulation.

        They are taken in the order in which they were made; ours is the last one.
        """
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as last:
            last.settimeout(max((deadline or Deadline(_OWN_END)).left, _LOOK))
            last.connect(pipe)
            last.shutdown(socket.SHUT_WR)
            last.recv(1)  # it ends when it was taken

    def end_all(self) -> None:
        """End all children; the one that writes the log last: others may have something to say."""
        children = multiprocessing.active_children()
        self.end(child for child in children if child is not self.logger)
        self.end(children)

    def end(self, processes: Iterable[BaseProcess]) -> None:
        """Ask processes to end, and end those that do not, all within one deadline."""
        alive = []
        for process in processes:
            if process.pid in self._stock and process is not self.logger:
                self._kill(process)  # it has no handler: SIGTERM would do the same, less safely
            elif process.is_alive():
                alive.append(process)
        for process in alive:
            process.terminate()
            with contextlib.suppress(OSError):
                os.kill(process.pid or 0, signal.SIGCONT)
        deadline = Deadline(_TERMINATION)
        for process in alive:
            process.join(deadline.left)
            if process.exitcode is None:
                self._kill(process)

    def _kill(self, process: BaseProcess) -> None:
        """Kill a process while it does not hold the lock of the queue that all write to."""
        with self._queue.no_writer():
            process.kill()
            process.join(_KILLED_LIMIT)

    def forget_messages(self, components: Iterable[Any]) -> None:
        """Let this process exit although dead components do not read what was sent to them."""
        for component_id in components:
            for name in ("invocation_q", "svc_response_q"):
                messages = self._framework.comp_registry.getComponentArtifact(component_id, name)
                messages.cancel_join_thread()
