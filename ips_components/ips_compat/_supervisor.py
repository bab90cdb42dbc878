"""The framework process: it notices what fails, ends what it started, and exits accordingly.

ipsframework 0.8.1 exits 0 whatever failed, waits for ever for a component that died, and leaves
processes behind when it is killed. A :class:`Supervisor` is attached to a framework while that is
being built, which is when IPS imports the first of our component modules, or later, when a
sub-workflow is the first to have one. It watches the one queue through which everything passes, and
the end of the process.
"""

import atexit
import contextlib
import gc
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ips_components.errors import IPSComponentsError
from ips_components.ips_compat import _deadlock
from ips_components.ips_compat._component_processes import ComponentProcesses
from ips_components.ips_compat._failures import Failure, Failures, report
from ips_components.ips_compat._ips import (
    BlockedMessage,
    Framework,
    Message,
    MethodResult,
    ServiceResponse,
    framework_main,
)
from ips_components.ips_compat._janitor import scratch_directory, start_janitor
from ips_components.ips_compat._queues import PollingQueue

RUN_RECORD = "IPS_COMPONENTS_RECORD_RUN"
"""Parameter of a simulation in which its analytics keeps the state of the coupled run."""

CAUSE = ".cause"
"""File in the directory of a run that is ended from outside: why."""

WAIT_ANY = "ips_components_wait_any"
"""Name of the service that answers when the first of several calls has ended."""


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
        self.failures = Failures()
        self.mark = secrets.token_hex(8)
        self._pid = os.getpid()
        self._callee: dict[int, tuple[Any, str]] = {}
        self._closed = False
        self._signal = 0
        self._queue = PollingQueue(
            framework.in_queue,
            self.note,
            self.synthesize_answer,
            lambda: self._processes.any_died(),  # which needs the queue
        )
        self._processes = ComponentProcesses(framework, self._queue)
        self._janitor = start_janitor(self.mark, self._log_pipes())

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
            self._processes.end(simulation.process_list)
            self._processes.wait_for_log(simulation.log_pipe_name)
            self._processes.forget_messages(simulation.all_comps)
            terminate_sim(sim_name)

        framework.task_manager.init_call = noted_call
        framework.config_manager.terminate_sim = firm_terminate_sim
        framework.terminate_all_sims = self._terminate_all
        if self.late:
            framework.terminate_all_sims = self._end_of_run
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
        self.failures.all.append(failure)
        # Only calls that the framework itself made decide on the run: a driver may cope with the
        # failure of a component. The portal is a spectator.
        if message.call_id not in self.framework.task_manager.outstanding_calls and (
            callee.class_name != "PortalBridge"
        ):
            self.failures.fatal.append(failure)

    def synthesize_answer(self) -> Any:
        """Return an answer in place of a dead component, or a question that can be answered now.

        Called while nothing arrives.

        Returns
        -------
        message or None
            What the framework should treat as arrived.
        """
        for call_id, (callee, method) in list(self._callee.items()):
            fate = self._processes.fate(callee)
            if fate:
                if callee.class_name != "PortalBridge":  # its failures are none; its death is noted
                    self._processes.note_dead(callee)
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
        """Note processes that were killed between two calls: the run has failed."""
        for death in self._processes.new_deaths():
            self.failures.add_fatal(RuntimeError(death))
            self.framework.error("ips_components: %s", death)

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
        if record.get("state") == "open" and not self.failures.fatal:
            port = record.get("port", "the analytics")
            self.failures.add_fatal(
                IPSComponentsError(
                    f"finalize of {port} was never called: the driver must call it after the "
                    "last step; it waits for the analysis and writes results and record"
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
        by_signal = f"ended by {signal.Signals(self._signal).name}" if self._signal else ""
        with contextlib.suppress(OSError):
            Path(record["run_dir"], CAUSE).write_text(by_signal or self.failures.cause())

    # --- the end --------------------------------------------------------------------------------

    def _run(self, run: Any) -> bool:
        self._processes.adapt_stock()
        try:
            succeeded = bool(run())
        except Exception as error:
            self.failures.add_fatal(error)
            succeeded = False
        finally:
            if sys.exception() is not None:  # a signal or SystemExit: nothing more to say here
                self.close()
        succeeded = succeeded and not self.failures.fatal
        self.close()
        if self.exits:
            gc.freeze()  # else the interpreter's end is spent on collecting what all libraries hold
        if succeeded or not self.exits:
            return succeeded
        self._report(self.failures.cause())
        raise SystemExit(1)

    def _terminate_all(self, status: int = Message.SUCCESS) -> None:
        """Do what the framework does, but for its pause of a second."""
        manager = self.framework.config_manager
        for name in manager.get_sim_names():
            self.framework.send_terminate_msg(name, status)
        self._processes.wait_for_own_end()
        manager.terminate(status)

    def _end_of_run(self, status: int = Message.SUCCESS) -> None:
        """The end of a run that had begun before we came: ``run`` itself would return True."""
        self._terminate_all(status)
        self.close()
        if not self.failures.fatal:
            return
        if not self.exits:
            raise IPSComponentsError(self.failures.cause())
        self._report(self.failures.cause())
        raise SystemExit(1)

    def _report(self, cause: str) -> None:
        finished = self.framework.config_manager.finished_sim_map.values()
        report(cause, [each.log_file for each in finished if isinstance(each.log_file, str)])

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
        manager = self.framework.config_manager
        for simulation in manager.sim_map.values():
            self._leave_cause(simulation.sim_conf)
        self._processes.end_all()
        for simulation in manager.sim_map.values():
            self._processes.forget_messages(simulation.all_comps)
        for path in self._log_pipes():
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            scratch_directory(self.mark).rmdir()
        if self._signal:
            self._report(f"ended by {signal.Signals(self._signal).name}")

    def _log_pipes(self) -> list[Path]:
        manager = self.framework.config_manager
        simulations = [*manager.sim_map.values(), *manager.finished_sim_map.values()]
        return [Path(each.log_pipe_name) for each in simulations if each.log_pipe_name]


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
