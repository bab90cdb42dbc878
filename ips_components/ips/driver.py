"""IPS driver of a coupled run: runs simulations and analytics together, reports the first failure.

In the config: port ``DRIVER`` with ``MODULE = ips_components.driver`` and ``NAME = Driver``.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ipsframework import Component

from ips_components import ips_compat
from ips_components.config import RunConfig
from ips_components.deadlines import Deadline
from ips_components.errors import RunFailed
from ips_components.ips.conclusion import Conclusion, prepare, say
from ips_components.ips.coupling import (
    ABORT,
    COORDINATOR,
    DONE,
    FAILED,
    OUTCOME,
    RUN,
    Records,
    launches_of,
    new_run_id,
    run_directory,
)
from ips_components.ips.launches import START_MARGIN

ips_compat.install()

_MARGIN = 60.0
_LOOK = 0.02
_POLL_INTERVAL = 5.0


class Driver(Component):
    """Couples one simulation, or several, to one analytics.

    ``init`` starts the Dask pool and stages files, ``step`` runs both sides to their ends,
    ``finalize`` takes everything down. The run's record, report and summary are written whether it
    went well or not.
    """

    def init(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """Initialise both sides at the same time; IPS calls this for a restart, too."""
        if ips_compat.run_config(self.services).mode == "RESTART":
            self.restart(timestamp, **keywords)
            return
        self._begin()
        self._initialise("init", timestamp)

    def restart(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """The same, from the checkpoint of RESTART_TIME."""
        self._begin()
        self._initialise("restart", self._run_config.checkpoint_time())

    def step(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """Run the simulation and the analysis of what it puts.

        Raises
        ------
        RunFailed
            With the first cause.
        """
        try:
            self._couple(timestamp)
        except BaseException as error:
            self._conclude(error)
            raise
        self._conclude(None)
        if "CHECKPOINT" in self.services.sim_conf:
            # A checkpoint is named after the number of steps that are done.
            done = float(self._run_config.times.n_steps)
            self.services.checkpoint_components(list(self._ports.values()), done)

    def finalize(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """Finalise both sides."""
        for port in reversed(self._ports):
            self._call(port, "finalize", timestamp)

    def checkpoint(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """Nothing of its own needs to be kept."""

    # --- beginning ------------------------------------------------------------------------------

    def _begin(self) -> None:
        config: RunConfig = replace(ips_compat.run_config(self.services), attended=True)
        self._run_config = config
        # A replay of a stored field has no simulation.
        self._simulations = {each.port: each for each in config.simulations}
        (self._analytics,) = config.analytics
        self._records = Records(self.services)
        self._started = time.time()
        self._failures: dict[str, BaseException] = {}
        self._to_blame: tuple[str, float] | None = None
        """The simulation because of which the others are ended, and since when."""
        self._opened = False
        """Whether the pool has started, and its run is open."""
        self._ports = {
            port: self.services.get_port(port)
            for port in (*self._simulations, self._analytics.port)
        }

    def _initialise(self, method: str, timestamp: float) -> None:
        """Initialise all sides; the pool goes on starting while the ranks do."""
        services = self.services
        self._opening = Deadline(self._analytics.connect_time_out + START_MARGIN)
        self._open_call = services.call_nonblocking(
            self._ports[self._analytics.port], method, timestamp, attended=True
        )
        calls = {
            services.call_nonblocking(self._ports[port], method, timestamp): port
            for port in self._simulations
        }
        try:
            self._wait_all(calls, self._opening)
            self._wait_for_run()
        except BaseException as error:
            self._conclude(error)
            raise

    def _wait_for_run(self) -> None:
        """Wait until the pool's scheduler is there; its workers may still be starting.

        Before, the ranks would take the cores from it.
        """
        while "contacts" not in self._records.read(RUN):
            if ips_compat.wait_first(self.services, [self._open_call], _LOOK) is not None:
                ips_compat.answer(self.services, self._open_call)  # raises: it has failed
            if self._opening.expired:
                raise self._no_answer(self._analytics.port, self._opening)

    def _wait_all(self, calls: dict[int, str], deadline: Deadline) -> dict[str, Any]:
        """Wait for several calls; the first failure ends it."""
        answers = {}
        while calls:
            ended = ips_compat.wait_first(self.services, calls, deadline.left)
            if ended is None:
                raise self._no_answer(", ".join(calls.values()), deadline)
            port = calls.pop(ended)
            answers[port] = ips_compat.answer(self.services, ended)
        return answers

    def _no_answer(self, ports: str, deadline: Deadline) -> RunFailed:
        return RunFailed(
            f"{ports} did not answer within {deadline.seconds:g} s; see {self._run_config.log_file}"
        )

    def _call(self, port: str, method: str, timestamp: float) -> Any:
        call = self.services.call_nonblocking(self._ports[port], method, timestamp)
        return self._wait_all({call: port}, Deadline(_MARGIN))[port]

    # --- the coupled step -----------------------------------------------------------------------

    def _couple(self, timestamp: float) -> None:
        """Run all sides; raise the first cause of what did not go well."""
        services = self.services
        analytics = self._analytics.port
        waiting = {
            services.call_nonblocking(self._ports[port], "step", timestamp, attended=True): port
            for port in self._simulations
        }
        waiting[self._open_call] = analytics
        deadline = Deadline(math.inf)
        while waiting:
            limit = self._opening if self._open_call in waiting else deadline
            ended = ips_compat.wait_first(services, waiting, min(_POLL_INTERVAL, limit.left))
            if ended is None:
                if limit.expired:
                    self._give_up(waiting)
                    break
                continue
            port = waiting.pop(ended)
            self._take_answer(port, ended)
            if ended == self._open_call and port not in self._failures:
                self._opened = True
                call = services.call_nonblocking(self._ports[analytics], "watch", timestamp)
                waiting[call] = analytics
                continue
            others = [other for other in waiting.values() if other in self._simulations]
            if waiting and not others and port not in self._failures:
                prepare()  # for the end, which the analysis alone is still away from
            deadline = self._inform_others(port, port not in self._failures, others)
        if self._failures:
            raise RunFailed(self._first_cause())

    def _take_answer(self, port: str, call: Any) -> None:
        """Note why a side has failed, or left a run that goes on without it."""
        try:
            ips_compat.answer(self.services, call)
        except Exception as error:
            if self._is_left_out(port):  # its process was killed
                self.services.error("%s is left out: %s", port, ips_compat.describe(error))
                self._note_end(port, ips_compat.describe(error))
            else:
                self._failures[port] = error

    def _give_up(self, waiting: Mapping[int, str]) -> None:
        """Note that these sides have not ended, or that the pool has not started, in time."""
        for call, port in waiting.items():
            self._failures[port] = RunFailed(f"{port} did not end in time")
            if call == self._open_call:
                self._failures[port] = self._no_answer(port, self._opening)
                self._records.write(ABORT, {"cause": "the analytics did not start"})

    def _inform_others(self, port: str, went_well: bool, busy: list[str]) -> Deadline:
        """Inform the other sides that one has ended; return until when they may go on."""
        config = self._analytics
        if port in self._simulations:
            if not went_well:
                self._note_end(port, ips_compat.describe(self._failures[port]))
            if busy and (went_well or config.on_analytics_loss == "continue"):
                return Deadline(math.inf)  # the other simulations have time-outs of their own
            if busy:
                cause = f"{port} failed, and ON_ANALYTICS_LOSS = abort"
                self._to_blame = self._to_blame or (port, time.time())
                self._records.write(ABORT, {"cause": cause})
            patience = config.analysis_time_out if went_well else 0.0
            return Deadline(config.drain_time_out + patience + _MARGIN)
        if went_well:  # the ranks have said goodbye already
            return Deadline(config.drain_time_out + _MARGIN)
        fault = self._fatal_fault()
        to_blame = fault.get("who", "analytics")
        if to_blame == "simulation" or to_blame.startswith("rank"):
            cause = f"{to_blame} {fault['what']}: {fault['cause']}"
        elif config.on_analytics_loss == "continue" and self._opened:
            return Deadline(math.inf)  # the simulation has a time-out of its own
        else:
            cause = "the analytics failed, and ON_ANALYTICS_LOSS = abort"
        self._records.write(ABORT, {"cause": cause})
        return Deadline(config.drain_time_out + _MARGIN)

    def _is_left_out(self, port: str) -> bool:
        """Whether the run goes on without a simulation that has failed."""
        return port in self._simulations and self._simulations[port].on_failure == "leave_out"

    def _note_end(self, port: str, cause: str) -> None:
        """Note the end of a launch whose process was killed before it could."""
        known = self._records.read(launches_of(port))
        if known.get("state") != "ended":
            ended = {**known, "state": "ended", "ok": False, "cause": cause}
            self._records.write(launches_of(port), ended)

    def _first_cause(self) -> str:
        """What went wrong first; the coordinator, if it is reachable, knows the order."""
        from ips_components.report.record import last_line

        fault = self._fatal_fault()
        analytics = self._analytics.port
        if not fault and not isinstance(self._failures.get(analytics), RunFailed | None):
            # No coordinator answers: the pool is lost, which no simulation can do to it. Its ranks
            # may have noticed first.
            return self._failure_of(analytics)
        blamed, since = self._to_blame or ("", 0.0)
        if blamed and fault.get("simulation") != blamed and fault.get("t", since) >= since:
            return self._failure_of(blamed)  # the others were ended because of it: echoes
        # What components reported to the coordinator is in their own exceptions, in more detail.
        if fault and fault["who"] not in ("simulation", "analysis"):
            launches = {port: self._records.read(launches_of(port)) for port in self._simulations}
            return say(fault, launches, self._records.read(COORDINATOR).get("faults", ()))
        culprit = analytics if fault.get("who") == "analysis" else ""
        if fault.get("who") == "simulation":
            culprit = fault.get("simulation") or next(iter(self._simulations), "")
            if fault.get("simulation") and culprit not in self._failures:
                return last_line(fault["cause"])  # it ended well, but not as it should have
        return self._failure_of(
            culprit if culprit in self._failures else next(iter(self._failures))
        )

    def _failure_of(self, port: str) -> str:
        """Failure of a component, with its name where it is not clear which one that is."""
        text = ips_compat.describe(self._failures[port])
        return f"{port}: {text}" if len(self._simulations) > 1 else text

    def _fatal_fault(self) -> dict[str, Any]:
        """The fault that made the run fail, as the coordinator saw it."""
        return self._records.read(COORDINATOR).get("fatal") or {}

    # --- the end --------------------------------------------------------------------------------

    def _conclude(self, error: BaseException | None) -> None:
        """Write record, report and figure, and print the summary."""
        known = self._records.read(RUN)
        if not known:  # the analytics failed before it knew its run
            run = new_run_id()
            known = {
                "run": run,
                "run_dir": str(
                    run_directory(self._run_config.sim_root, run, self._analytics.private)
                ),
                "pool": {"analysis": self._analytics.analysis},
            }
        conclusion = Conclusion(
            self.services,
            self._run_config,
            known["run"],
            Path(known["run_dir"]),
            self._started,
            known["pool"],
            self._records.read(OUTCOME),
        )
        cause = conclusion.write(error)
        self._records.write(RUN, {**known, "state": FAILED if cause else DONE, "cause": cause})
        if error is None and cause:
            raise RunFailed(cause)
