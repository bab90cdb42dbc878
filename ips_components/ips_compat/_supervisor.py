"""The framework process: it notices what fails, ends what it started, and exits accordingly.

ipsframework 0.8.1 exits 0 whatever failed, waits for ever for a component that died, and leaves
processes behind when it is killed. A :class:`Supervisor` is attached to a framework while that is
being built, which is when IPS imports the first of our component modules, or later, when a
sub-workflow is the first to have one. It watches the one queue through which everything passes, and
the end of the process.
"""

import atexit
import contextlib
import json
import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ips_components.deadlines import Deadline
from ips_components.errors import IPSComponentsError
from ips_components.ips_compat import _deadlock, guard
from ips_components.ips_compat._ips import (
    BlockedMessage,
    Framework,
    Message,
    MethodResult,
    ServiceResponse,
    framework_main,
)
from ips_components.ips_compat._launch import GUARD
from ips_components.ips_compat._queues import PollingQueue
from ips_components.ips_compat._text import describe

RUN_RECORD = "IPS_COMPONENTS_RECORD_RUN"
CAUSE = ".cause"
"""File in the directory of a run that is ended from outside: why."""
"""Parameter of a simulation in which its analytics keeps the state of the coupled run."""

WAIT_ANY = "ips_components_wait_any"
"""Name of the service that answers when the first of several calls has ended."""

_QUOTED = 4
_TERMINATION = 6.0
_STOPPED_LIMIT = 30.0


@dataclass(frozen=True, slots=True)
class Failure:
    """One call of a component's method that did not end well."""

    component: str
    method: str
    error: object

    def echoes(self, other: "Failure") -> bool:
        """Whether this is *other* again, as it came back to a caller."""
        first = str(other.error).strip()
        return bool(first) and first in str(self.error)

    def __str__(self) -> str:
        where = f"component {self.component}, method {self.method}: " if self.component else ""
        return where + describe(self.error)


class Supervisor:
    """Watches one framework from its construction to its end.

    Parameters
    ----------
    framework
        The framework, built or being built.
    exits
        Whether the process is IPS's command line: then signals are answered, and a failed run ends
        the process with a non-zero exit status. Otherwise :meth:`Framework.run` returns ``False``.
    nodes_from_command_line
        Whether the number of nodes was given to ``ips.py``, whatever the platform file says.
    late
        Whether the framework runs already.
    """

    def __init__(
        self,
        framework: Framework,
        exits: bool,
        nodes_from_command_line: bool = False,
        late: bool = False,
    ) -> None:
        self.framework = framework
        self.exits = exits
        self.nodes_from_command_line = nodes_from_command_line
        self.late = late
        self.failures: list[Failure] = []
        self.fatal: list[Failure] = []
        self.mark = secrets.token_hex(8)
        self._pid = os.getpid()
        self._callee: dict[int, tuple[Any, str]] = {}
        self._stopped_since: dict[int, float] = {}
        self._closed = False
        self._signal = 0
        self._dead: set[str] = set()
        """Components whose death is known."""
        self._queue = PollingQueue(
            framework.in_queue, self.note, self.synthesize_answer, self._a_component_died
        )
        self._stock = {child.pid for child in multiprocessing.active_children()}
        """Components that were started before they could be adapted."""
        self._janitor = self._start_janitor()

    def attach(self) -> None:
        """Take our place in the framework object; nothing of its class changes."""
        framework = self.framework
        framework.in_queue = self._queue
        framework.register_service_handler([WAIT_ANY], self._wait_any)
        init_call = framework.task_manager.init_call
        terminate_sim = framework.config_manager.terminate_sim
        run = framework.run

        def noted_call(message: Any, manage_return: bool = True) -> int:
            call_id: int = init_call(message, manage_return=manage_return)
            self._callee[call_id] = (message.target_comp_id, message.args[0])
            return call_id

        def firm_terminate_sim(sim_name: str) -> None:
            simulation = framework.config_manager.sim_map[sim_name]
            self._note_deaths()
            self._note_open_run(simulation.sim_conf)
            self._leave_cause(simulation.sim_conf)
            self._end_processes(simulation.process_list)
            self._forget_messages(simulation.all_comps)
            terminate_sim(sim_name)

        framework.task_manager.init_call = noted_call
        framework.config_manager.terminate_sim = firm_terminate_sim
        if self.late:
            terminate_all = framework.terminate_all_sims
            framework.terminate_all_sims = lambda *args, **keywords: self._end_of_run(
                terminate_all, *args, **keywords
            )
        else:
            framework.run = lambda: self._run(run)
        atexit.register(self.close)
        if self.exits and threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(signum, self._on_signal)

    # --- what passes through the queue ------------------------------------------------------

    def note(self, message: Any) -> None:
        """Remember a failure that passes by."""
        if not isinstance(message, MethodResult):
            return
        # A call that was made before we came is known to the framework alone.
        _, _, known, *_ = self.framework.__dict__["outstanding_calls_list"].get(
            message.call_id, (None, None, "?")
        )
        callee, method = self._callee.pop(message.call_id, (message.sender_id, known))
        if message.status != Message.FAILURE:
            return
        failure = Failure(callee.class_name, method, message.args[0])
        self.failures.append(failure)
        # Only calls that the framework itself made decide on the run: a driver may cope with the
        # failure of a component. The portal is a spectator.
        if message.call_id not in self.framework.task_manager.outstanding_calls and (
            callee.class_name != "PortalBridge"
        ):
            self.fatal.append(failure)

    def synthesize_answer(self) -> Any:
        """Return an answer in place of a dead component, or a question that can be answered now.

        Called while nothing arrives.

        Returns
        -------
        message or None
            What the framework should treat as arrived.
        """
        for call_id, (callee, method) in list(self._callee.items()):
            fate = self._fate(callee)
            if fate:
                if callee.class_name != "PortalBridge":  # its failures are none; its death is noted
                    self._dead.add(str(callee))
                error = RuntimeError(f"the component's process {fate} during {method}()")
                return MethodResult(callee, None, call_id, Message.FAILURE, error)
        for message in self.framework.blocked_messages:
            if getattr(message, "target_method", "") == WAIT_ANY and self._is_due(message):
                self.framework.blocked_messages.remove(message)
                return message
        self._note_deaths()
        self._break_deadlock()
        return None

    def _note_deaths(self) -> None:
        """Note processes that were killed while nobody called them: the run has failed."""
        manager = self.framework.config_manager
        processes = [
            (component_id.class_name, str(component_id), process)
            for simulation in manager.sim_map.values()
            for component_id, process in zip(
                simulation.all_comps, simulation.process_list, strict=False
            )
        ]
        if self._logger is not None:
            processes.append(("", "the process that writes the logs", self._logger))
        for name, identity, process in processes:
            if (process.exitcode or 0) < 0 and identity not in self._dead:
                self._dead.add(identity)
                whose = f"the process of component {name}" if name else identity
                fate = signal.Signals(-(process.exitcode or 0)).name
                error = RuntimeError(f"{whose} (pid {process.pid}) was ended by {fate}")
                self.fatal.append(Failure("", "", error))
                self.framework.error("ips_components: %s", error)

    def _break_deadlock(self) -> None:
        """Refuse a request for cores that would be waited for in vain."""
        framework = self.framework
        system = framework.config_manager.fwk_sim_name
        working = [
            str(callee) for callee, _ in self._callee.values() if callee.get_sim_name() != system
        ]
        deadlock = _deadlock.find(framework, working)
        if deadlock is None:
            return
        request, story = deadlock
        framework.blocked_messages.remove(request)
        refusal = ServiceResponse(
            framework.component_id,
            request.sender_id,
            request.message_id,
            Message.FAILURE,
            RuntimeError(story),
        )
        registry = framework.comp_registry
        registry.getComponentArtifact(request.sender_id, "svc_response_q").put(refusal)

    def _fate(self, callee: Any) -> str:
        """Why a component cannot answer any more, or ""."""
        process = self._process_of(callee)
        if process is None:
            return ""
        if process.exitcode is not None:
            if process.exitcode < 0:
                return f"(pid {process.pid}) was ended by {signal.Signals(-process.exitcode).name}"
            return f"(pid {process.pid}) ended with exit status {process.exitcode}"
        if guard.state(process.pid) != "T":
            self._stopped_since.pop(process.pid, None)
            return ""
        since = self._stopped_since.setdefault(process.pid, time.monotonic())
        if time.monotonic() - since < _STOPPED_LIMIT:
            return ""
        process.kill()
        return f"(pid {process.pid}) was stopped for {_STOPPED_LIMIT:.0f} s, and then killed,"

    def _process_of(self, callee: Any) -> BaseProcess | None:
        for simulation in self.framework.config_manager.sim_map.values():
            # IPS appends to both lists in one go; they match index by index.
            for component_id, process in zip(
                simulation.all_comps, simulation.process_list, strict=False
            ):
                if str(component_id) == str(callee):
                    return process
        return None

    def _a_component_died(self) -> bool:
        """Whether the process of a component has ended, so that it may hold the queue's lock."""
        return any(
            process.exitcode is not None
            for simulation in self.framework.config_manager.sim_map.values()
            for process in simulation.process_list
        )

    # --- components that were made before the first of ours ---------------------------------

    def _adapt_stock_components(self) -> None:
        """Start again, adapted, what was started before; no method of it was called yet.

        IPS starts a component's process when it makes the component. Those that were made before
        the first module called ``install`` lack all that belongs to a component's process.
        """
        framework = self.framework
        registry = framework.comp_registry
        for simulation in framework.config_manager.sim_map.values():
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

    def _forget_messages(self, components: Iterable[Any]) -> None:
        """Let this process exit although nobody reads what was sent to dead components."""
        for component_id in components:
            for name in ("invocation_q", "svc_response_q"):
                messages = self.framework.comp_registry.getComponentArtifact(component_id, name)
                messages.cancel_join_thread()

    # --- a service for drivers ----------------------------------------------------------------

    def _is_due(self, message: Any) -> bool:
        calls, deadline = message.args
        finished = self.framework.task_manager.finished_calls
        return time.monotonic() >= deadline or any(call in finished for call in calls)

    def _wait_any(self, message: Any) -> int | None:
        """Answer with the first ended call of several, or None when the deadline has passed."""
        calls, _deadline = message.args
        for call_id in self.framework.task_manager.finished_calls:  # in the order of their ends
            if call_id in calls:
                return int(call_id)
        if self._is_due(message):
            return None
        raise BlockedMessage(message, f"***none of calls {calls} finished")

    def _note_open_run(self, config: Mapping[str, Any]) -> None:
        """Fail a workflow whose coupled run was opened, and never ended by its analytics."""
        text = config.get(RUN_RECORD)
        record = json.loads(text) if text else {}
        if record.get("state") == "open" and not self.fatal:
            port = record.get("port", "the analytics")
            self.fatal.append(
                Failure(
                    "",
                    "",
                    IPSComponentsError(
                        f"finalize of {port} was never called: the driver must call it after the "
                        "last step; it waits for the analysis and writes results and record"
                    ),
                )
            )

    def _leave_cause(self, config: Mapping[str, Any]) -> None:
        """Leave the cause of the end where the analytics of an open run finds it.

        Its process gets a signal next, and writes the record of the run.
        """
        text = config.get(RUN_RECORD)
        record = json.loads(text) if text else {}
        if record.get("state") != "open":
            return
        cause = f"ended by {signal.Signals(self._signal).name}" if self._signal else self.cause()
        with contextlib.suppress(OSError):
            Path(record["run_dir"], CAUSE).write_text(cause)

    # --- the end --------------------------------------------------------------------------------

    def _run(self, run: Any) -> bool:
        self._adapt_stock_components()
        try:
            succeeded = bool(run())
        except Exception as error:
            self.fatal.append(Failure("", "", error))
            succeeded = False
        finally:
            if sys.exception() is not None:  # a signal or SystemExit: nothing more to say here
                self.close()
        succeeded = succeeded and not self.fatal
        self.close()
        if succeeded or not self.exits:
            return succeeded
        self._report(self.cause())
        raise SystemExit(1)

    def _end_of_run(self, terminate_all: Any, *args: Any, **keywords: Any) -> None:
        """The end of a run that had begun before we came: ``run`` itself would return True."""
        terminate_all(*args, **keywords)
        self.close()
        if not self.fatal:
            return
        if not self.exits:
            raise IPSComponentsError(self.cause())
        self._report(self.cause())
        raise SystemExit(1)

    def cause(self) -> str:
        """The first failure that made the run fail, not one of its echoes."""
        if not self.fatal:
            return "the framework gave up; its log says why"
        last = self.fatal[0]
        for failure in self.failures:
            if last.echoes(failure):
                return str(failure)
        return str(last)

    def _report(self, cause: str) -> None:
        sys.stdout.flush()
        logs = [
            str(simulation.log_file)
            for simulation in self.framework.config_manager.finished_sim_map.values()
            if isinstance(simulation.log_file, str)
        ]
        first, *quoted = cause.splitlines()
        lines = ["ips_components: the run failed", f"  cause: {first}"]
        lines += [f"    {line}" for line in quoted[-_QUOTED:]]
        lines += [f"  log:   {log}" for log in logs]
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()

    def refuse(self, error: Exception) -> NoReturn:
        """End a framework that is being built, since it could not work."""
        if not self.exits:
            raise error
        self.close()
        sys.stdout.flush()
        sys.stderr.write(f"ips_components: {error}\n")
        raise SystemExit(2)

    def _on_signal(self, signum: int, _frame: FrameType | None) -> NoReturn:
        for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(other, signal.SIG_IGN)  # once is enough; the clean-up is bounded
        self._signal = signum
        raise SystemExit(128 + signum)

    def close(self) -> None:
        """End everything that this framework started; does nothing in forked children."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        # A framework that ended by itself has ended its components; this is for all other ways.
        # The process that writes the log goes last, since the others may have something to say.
        manager = self.framework.config_manager
        for simulation in manager.sim_map.values():
            self._leave_cause(simulation.sim_conf)
        children = multiprocessing.active_children()
        self._end_processes(child for child in children if child is not self._logger)
        self._end_processes(children)
        for simulation in manager.sim_map.values():
            self._forget_messages(simulation.all_comps)
        for path in self._log_pipes():
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            scratch_directory(self.mark).rmdir()
        if self._signal:
            self._report(f"ended by {signal.Signals(self._signal).name}")

    def _end_processes(self, processes: Iterable[BaseProcess]) -> None:
        """Ask processes to end, and end those that do not, all within one deadline."""
        alive = []
        for process in processes:
            if process.pid in self._stock and process is not self._logger:
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
            process.join(5.0)

    @property
    def _logger(self) -> BaseProcess | None:
        """The process that writes the log."""
        logger: BaseProcess | None = self.framework.config_manager.log_process
        return logger

    # --- the janitor ---------------------------------------------------------------------------

    def _log_pipes(self) -> list[Path]:
        manager = self.framework.config_manager
        simulations = [*manager.sim_map.values(), *manager.finished_sim_map.values()]
        return [Path(each.log_pipe_name) for each in simulations if each.log_pipe_name]

    def _start_janitor(self) -> "subprocess.Popen[bytes]":
        """Entrust to a process of its own what is to be cleaned up if we are killed."""
        environment = {k: v for k, v in os.environ.items() if k != guard.MARK}
        command = [sys.executable, "-I", "-S", str(GUARD)]
        janitor = subprocess.Popen(
            [*command, "--parent", str(self._pid), "--janitor", self.mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        os.environ[guard.MARK] = self.mark
        if "PYTHONPATH" in os.environ:
            # Components and tasks run in other directories; what was meant is from here.
            entries = os.environ["PYTHONPATH"].split(os.pathsep)
            os.environ["PYTHONPATH"] = os.pathsep.join(str(Path.cwd() / each) for each in entries)
        children = [child.pid for child in multiprocessing.active_children() if child.pid]
        lines = [f"kill {pid} {guard.started(pid)}" for pid in children]
        lines += [f"remove {path}" for path in self._log_pipes()]
        lines.append(f"remove {scratch_directory(self.mark)}")
        if janitor.stdin is not None:
            janitor.stdin.write("".join(f"{line}\n" for line in lines).encode())
            janitor.stdin.flush()
        janitor.returncode = 0  # it outlives us on purpose: keep Popen from complaining
        return janitor


def scratch_directory(mark: str) -> Path:
    """Directory on the node for what must not outlive the run."""
    return Path(tempfile.gettempdir()) / f"ips_components-{mark}"


def stack() -> Iterator[FrameType]:
    """Frames of the calling thread, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def attach() -> Supervisor | None:
    """Attach a supervisor to the framework that is being built or runs, if it has none yet."""
    framework: Framework | None = None
    from_command_line = nodes_given = late = False
    for frame in stack():
        owner = frame.f_locals.get("self")
        if isinstance(owner, Framework):
            framework = owner
            nodes_given = nodes_given or bool(frame.f_locals.get("cmd_nodes"))
            late = late or frame.f_code is Framework.run.__code__
        from_command_line = from_command_line or frame.f_code is framework_main.__code__
    if framework is None or "_ips_components_supervisor" in framework.__dict__:
        return None
    supervisor = Supervisor(framework, from_command_line, nodes_given, late)
    supervisor.attach()
    framework._ips_components_supervisor = supervisor
    return supervisor
