"""IPS driver of a coupled run: the simulation beside the analytics, and the truth about both.

In the config: port ``DRIVER`` with ``MODULE = ips_components.driver`` and ``NAME = Driver``.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipsframework import Component

from ips_components import ips_compat
from ips_components.config import AnalyticsConfig, RunConfig, SimulationConfig
from ips_components.errors import IPSComponentsError
from ips_components.ips.notices import (
    ABORT,
    COORDINATOR,
    about,
    leave_notice,
    new_run_id,
    read_notice,
    remove_notices,
    run_directory,
    task_of,
)

ips_compat.install()

_MARGIN = 60.0
_LOOK = 5.0


class RunFailed(IPSComponentsError):
    """A coupled run did not end well; the message is its first cause."""


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
            results = self._couple(timestamp)
        except BaseException as error:
            self._conclude(error, {})
            raise
        self._conclude(None, results)
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
        config: RunConfig = ips_compat.run_config(self.services)
        self._run_config = config
        # A replay of a stored field has no simulation.
        self._simulations = {each.port: each for each in config.simulations}
        (self._analytics,) = config.analytics
        self._run = new_run_id()
        self._run_dir = run_directory(config.sim_root, self._run)
        self._started = time.time()
        self._failures: dict[str, BaseException] = {}
        self._to_blame: tuple[str, float] | None = None
        """The simulation because of which the others are ended, and since when."""
        self._pool = {"analysis": config.analytics[0].analysis}
        self._ports = {
            port: self.services.get_port(port)
            for port in (*self._simulations, self._analytics.port)
        }

    def _initialise(self, method: str, timestamp: float) -> None:
        services = self.services
        analytics = self._analytics.port
        calls = {
            services.call_nonblocking(
                self._ports[analytics], method, timestamp, run=self._run, run_dir=str(self._run_dir)
            ): analytics
        }
        for port in self._simulations:
            calls[services.call_nonblocking(self._ports[port], method, timestamp)] = port
        deadline = self._analytics.connect_time_out + _MARGIN
        try:
            answers = self._wait_all(calls, deadline)
        except BaseException as error:
            self._conclude(error, {})
            raise
        self._contacts, self._pool = answers[analytics]["contacts"], answers[analytics]["pool"]

    def _wait_all(self, calls: dict[int, str], timeout: float) -> dict[str, Any]:
        """Wait for several calls; the first failure ends it."""
        answers = {}
        end = time.monotonic() + timeout
        while calls:
            ended = ips_compat.wait_first(self.services, calls, end - time.monotonic())
            if ended is None:
                raise RunFailed(
                    f"{', '.join(calls.values())} did not answer within {timeout:g} s; see "
                    f"{self._run_config.log_file}"
                )
            port = calls.pop(ended)
            answers[port] = ips_compat.answer(self.services, ended)
        return answers

    def _call(self, port: str, method: str, timestamp: float) -> Any:
        call = self.services.call_nonblocking(self._ports[port], method, timestamp)
        return self._wait_all({call: port}, _MARGIN)[port]

    # --- the coupled step -----------------------------------------------------------------------

    def _couple(self, timestamp: float) -> dict[str, Any]:
        """Run all sides; return the answers by port when all went well."""
        services = self.services
        waiting = {}
        for port in self._simulations:
            leave_notice(self._run_dir, about(port), {"state": "started"})
            call = services.call_nonblocking(
                self._ports[port],
                "step",
                timestamp,
                contact=self._contacts[port],
                run_dir=str(self._run_dir),
            )
            waiting[call] = port
        analytics = self._analytics.port
        waiting[services.call_nonblocking(self._ports[analytics], "step", timestamp)] = analytics
        answers: dict[str, Any] = {}
        deadline = float("inf")
        while waiting:
            left = min(_LOOK, deadline - time.monotonic())
            ended = ips_compat.wait_first(services, waiting, max(left, 0.0))
            if ended is None:
                if time.monotonic() > deadline:
                    for port in waiting.values():
                        self._failures[port] = RunFailed(f"{port} did not end in time")
                    break
                continue
            port = waiting.pop(ended)
            try:
                answers[port] = ips_compat.answer(services, ended)
            except Exception as error:
                self._failures[port] = error
            others = [each for each in waiting.values() if each in self._simulations]
            deadline = self._tell_the_others(port, port in answers, others)
        if self._failures:
            raise RunFailed(self._first_cause())
        return answers

    def _tell_the_others(self, port: str, went_well: bool, busy: list[str]) -> float:
        """One side has ended: let the others know, and say until when they may go on."""
        now, config = time.monotonic(), self._analytics
        if port in self._simulations:
            cause = "" if went_well else ips_compat.describe(self._failures[port])
            leave_notice(
                self._run_dir, about(port), {"state": "ended", "ok": went_well, "cause": cause}
            )
            if busy and (went_well or config.on_analytics_loss == "continue"):
                return float("inf")  # the other simulations have time-outs of their own
            if busy:
                cause = f"{port} failed, and ON_ANALYTICS_LOSS = abort"
                self._to_blame = self._to_blame or (port, time.time())
                leave_notice(self._run_dir, ABORT, {"cause": cause})
            patience = config.analysis_time_out if went_well else 0.0
            return now + config.drain_time_out + patience + _MARGIN
        if went_well:  # the ranks have said goodbye already
            return now + config.drain_time_out + _MARGIN
        fault = self._fatal_fault()
        to_blame = fault.get("who", "analytics")
        if to_blame == "simulation" or to_blame.startswith("rank"):
            cause = f"{to_blame} {fault['what']}: {fault['cause']}"
        elif config.on_analytics_loss == "continue":
            return float("inf")  # the simulation has a time-out of its own
        else:
            cause = "the analytics failed, and ON_ANALYTICS_LOSS = abort"
        leave_notice(self._run_dir, ABORT, {"cause": cause})
        return now + config.drain_time_out + _MARGIN

    def _first_cause(self) -> str:
        """What went wrong first; the coordinator saw the order of things, if it lived."""
        from ips_components.report.record import last_line

        fault = self._fatal_fault()
        analytics = self._analytics.port
        if not fault and not isinstance(self._failures.get(analytics), RunFailed | None):
            # Nobody could be asked: the pool is lost, which no simulation can do to it. Its ranks
            # may have noticed first.
            return self._told_by(analytics)
        blamed, since = self._to_blame or ("", 0.0)
        if blamed and fault.get("simulation") != blamed and fault.get("t", since) >= since:
            return self._told_by(blamed)  # the others were ended because of it: echoes
        # What the components told the coordinator, they tell us themselves, and better.
        if fault and fault["who"] not in ("simulation", "analysis"):
            return f"{fault['who']} {fault['what']}: {last_line(fault['cause'])}"
        culprit = analytics if fault.get("who") == "analysis" else ""
        if fault.get("who") == "simulation":
            culprit = fault.get("simulation") or next(iter(self._simulations), "")
            if fault.get("simulation") and culprit not in self._failures:
                return last_line(fault["cause"])  # it ended well, but not as it should have
        return self._told_by(culprit if culprit in self._failures else next(iter(self._failures)))

    def _told_by(self, port: str) -> str:
        """Failure of a component, with its name where it is not clear which one that is."""
        text = ips_compat.describe(self._failures[port])
        return f"{port}: {text}" if len(self._simulations) > 1 else text

    def _fatal_fault(self) -> dict[str, Any]:
        """The fault that made the run fail, as the coordinator saw it."""
        return read_notice(self._run_dir, COORDINATOR).get("fatal") or {}

    # --- the end --------------------------------------------------------------------------------

    def _conclude(self, error: BaseException | None, answers: dict[str, Any]) -> None:
        """Write record, report and figure, and print the summary."""
        from ips_components.report import make_record, write_record, write_report
        from ips_components.report.ledger import print_summary

        coordinator = read_notice(self._run_dir, COORDINATOR)
        ended = {port: read_notice(self._run_dir, task_of(port)) for port in self._simulations}
        answers = {**{port: facts for port, facts in ended.items() if facts}, **answers}
        remove_notices(self._run_dir)
        outcome = answers.get(self._analytics.port) or {}
        cause = None if error is None else _in_short(ips_compat.describe(error))
        if isinstance(error, SystemExit):
            cause = "the run was ended by a signal"
        fields: dict[str, Any] = {
            "started": self._started,
            "ended": time.time(),
            "comment": self._run_config.comment,
            "n_steps": self._run_config.times.n_steps if self._simulations else None,
            "pool": self._pool,
            **self._who_ran(coordinator, answers),
            "contract": {"arrays": outcome["contract"]} if "contract" in outcome else None,
            "results": {
                "path": outcome.get("results"),
                "variables": outcome.get("variables", {}),
            },
        }
        ledger_open = error is None and not (coordinator.get("ledger") or {}).get("closed", False)
        if ledger_open:
            cause = "the ledger does not close: some blocks were produced and never accounted for"
        record = make_record(
            self._run,
            status="ok" if cause is None else "failed",
            cause=cause,
            coordinator=coordinator,
            config=self._run_config.parameters(),
            **{**fields, "figures": self._figures(outcome, self._analytics)},
        )
        write_record(record, self._run_dir)
        write_report(self._run_dir, record)
        print_summary(record, self._run_dir)
        if ledger_open:
            raise RunFailed(cause or "")

    def _who_ran(
        self, coordinator: Mapping[str, Any], answers: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The parts of the record about who ran where."""
        if not self._simulations:
            return {"simulation": {"source": self._analytics.source}}
        each = [
            _facts(config, answers.get(port), coordinator)
            for port, config in self._simulations.items()
        ]
        return {"simulation": each[0], **({"simulations": each} if len(each) > 1 else {})}

    def _figures(self, outcome: dict[str, Any], config: AnalyticsConfig) -> list[str]:
        """Draw the results; a figure that cannot be drawn is no reason to fail a run."""
        if not config.figure or not outcome.get("results"):
            return []
        from ips_components.report.figure import run_figure

        path = Path(outcome["results"])
        try:
            import xarray

            with (
                xarray.open_zarr(path, consolidated=False)
                if path.suffix == ".zarr"
                else xarray.open_dataset(path)
            ) as results:
                return [run_figure(results, self._run_dir / "results.png").name]
        except Exception as error:
            self.services.warning("no figure of %s: %s", path, ips_compat.describe(error))
            return []


def _facts(
    config: SimulationConfig, answer: Mapping[str, Any] | None, coordinator: Mapping[str, Any]
) -> dict[str, Any]:
    """What the record says about one simulation."""
    hosts = [
        rank.get("host")
        for rank in coordinator.get("ranks", ())
        if rank.get("simulation", config.port) == config.port
    ]
    known = answer or {"executable": config.program(), "nproc": config.nproc}
    return {
        "port": config.port,
        **{name: known.get(name) for name in ("executable", "nproc", "exit_status")},
        "hosts": sorted({host for host in hosts if host}),
    }


def _in_short(text: str) -> str:
    """First and last line of a message that quotes a log."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if len(lines) < 2 else f"{lines[0]} {lines[-1]}"
