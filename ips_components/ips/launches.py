"""The launches of one component of the workflow: its tasks that put data into the run."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from ips_components import ips_compat
from ips_components.config import RunConfig
from ips_components.deadlines import Deadline, poll_until
from ips_components.errors import IPSComponentsError
from ips_components.ips.coupling import OPEN, RUN, STARTING, Records, launches_of
from ips_components.ips.pool_tasks import Coupling, connect
from ips_components.wire.contact import DEADLINE, ENVIRONMENT

START_MARGIN = 60.0
"""Seconds that a pool may take beyond CONNECT_TIME_OUT; its launcher may wait for nodes."""
_ABANDON = 60.0
_ASIDE = 5.0
"""Seconds to wait for what only makes a message better."""
_KEPT = 500
"""Launches of which the record has the facts, the newest ones."""


class CouplingError(IPSComponentsError):
    """A driver calls the components of a coupled workflow in an order that cannot work."""


@dataclass
class Launch:
    """One launch of a component's program.

    Parameters
    ----------
    number
        0, 1, ... of this component in this run.
    first
        Step at which the program goes on.
    run, run_dir, contact
        Of the run; empty where no analysis is coupled.
    patience
        Seconds for which its ranks wait for the contact file, where the pool is being started.
    facts
        What is known of its task, for the run's record.
    """

    number: int = 0
    first: int = 0
    run: str = ""
    run_dir: str = ""
    contact: str = ""
    patience: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the task: where its ranks find the run."""
        found = {ENVIRONMENT: self.contact} if self.contact else {}
        if self.patience and DEADLINE not in os.environ:
            found[DEADLINE] = f"{self.patience:g}"
        return found


class Launches:
    """Begins and ends the launches of one component, and keeps the record of them.

    Parameters
    ----------
    services
        Of the component.
    config
        Of the workflow.
    port
        Of the component.
    silent
        Whether a task that opens no bridge was no launch: components that are none of ours have
        other tasks, too.
    """

    def __init__(self, services: Any, config: RunConfig, port: str, silent: bool = False) -> None:
        self.records = Records(services)
        self.config = config
        self.port = port
        self.silent = silent
        self._services = services
        self._client: Any = None
        self._run: dict[str, Any] = {}
        self._record: dict[str, Any] = {"state": "idle", "count": 0, "launches": []}

    @property
    def coupled(self) -> bool:
        """Whether the workflow has an analytics that gets what the tasks put."""
        return bool(self.config.analytics) and not self.config.analytics[0].source

    @property
    def client(self) -> Any:
        """Connection to the scheduler of the run's pool; made when it is asked for first."""
        return self._connect(self.config.analytics[0].connect_time_out)

    def _connect(self, limit: float) -> Any:
        if self._client is None:
            self._client = connect(
                self._run["pool"]["scheduler"],
                self._run["certificates"],
                limit,
            )
        return self._client

    @property
    def component(self) -> Any:
        """Config of the component."""
        return next(each for each in self.config.coupled_ports if each.port == self.port)

    @property
    def coordinated(self) -> str:
        """Id of this component's run with the coordinator."""
        return str(self._run["runs"][self.port])

    def open_run(self, starting: bool = False) -> dict[str, Any]:
        """Return the record of the run that the tasks belong to, empty when there is none.

        Parameters
        ----------
        starting
            Whether a run will do whose pool is still being started: its ranks wait for the contact
            file. Else this waits for the pool.

        Raises
        ------
        CouplingError
            When the analytics has not been initialised, or has ended its run already.
        """
        if not self.coupled:
            return {}
        config = self.config.analytics[0]
        analytics = config.port
        run = self.records.read(RUN)
        if run.get("state") == STARTING and not starting:
            limit = config.connect_time_out
            run = poll_until(self._started_run, Deadline(limit), pause=0.05)
            if not run:
                raise CouplingError(
                    f"{self.port}.step was called while {analytics}.init was under way, which did "
                    f"not end within {limit:g} s (CONNECT_TIME_OUT)"
                )
        if not run:
            raise CouplingError(
                f"{self.port}.step was called before {analytics}.init: the driver must call init "
                f"of {analytics} before the first step of {self.port}, e.g. by looping over "
                "[PORTS] NAMES"
            )
        if run["state"] != OPEN and not (starting and run["state"] == STARTING):
            why = f": {run['cause']}" if run.get("cause") else ""
            raise CouplingError(
                f"{self.port}.step was called after the run of {analytics} had ended{why}; call "
                f"finalize of {analytics} after the last step"
            )
        self._run = run
        return run

    def _started_run(self) -> dict[str, Any]:
        run = self.records.read(RUN)
        return run if run["state"] != STARTING else {}

    @property
    def left_out(self) -> str:
        """Why the run goes on without this simulation; empty while it takes part."""
        if self.component.on_failure != "leave_out" or not self.open_run():
            return ""
        return str(self._call("progress").get("left_out") or "")

    def begin(self, nproc: int, timestamp: Any, attended: bool) -> Launch:
        """Begin a launch.

        Parameters
        ----------
        nproc
            Ranks that it will have.
        timestamp
            Time of the time loop.
        attended
            Whether the driver watches the run itself, and launches every program once.
        """
        run = self.open_run(starting=attended)
        restarted = self.config.mode == "RESTART"
        launch = Launch(
            number=self._record["count"],
            first=int(self.config.checkpoint_time()) if restarted else 0,
        )
        if run:
            launch.run, launch.run_dir = run["run"], run["run_dir"]
            launch.contact = run["contacts"][self.port]
            if run["state"] == STARTING:
                launch.patience = START_MARGIN + self.config.analytics[0].connect_time_out
            if not attended:
                launch.number, launch.first = self._call(
                    "begin_launch", size=nproc, time=as_time(timestamp)
                )
        launch.facts = {
            "launch": launch.number,
            "first_step": launch.first,
            "time": timestamp,
            "nproc": nproc,
            "started": time.time(),
        }
        self._note_begin(launch, many=not attended)
        return launch

    def begin_pool(self, name: str, tasks: int, timestamp: Any) -> Launch:
        """Begin the launches of a task pool on Dask, each of which its own task begins and ends.

        Parameters
        ----------
        name
            Of the pool.
        tasks
            How many there are.
        timestamp
            Time of the time loop.
        """
        run = self.open_run()
        launch = Launch(number=self._record["count"], run=run["run"], run_dir=run["run_dir"])
        launch.contact = run["contacts"][self.port]
        launch.facts = {
            "launch": launch.number,
            "executable": f"task pool {name}",
            "time": timestamp,
            "nproc": tasks,
            "started": time.time(),
        }
        self._note_begin(launch, many=True)
        return launch

    def tries_again(self, launch: Launch) -> bool:
        """Whether a launch that has failed may be launched again by its component."""
        component = self.component
        before = [each for each in self._record["launches"] if each["launch"] == launch.number]
        return component.on_launch_failure == "retry" and len(before) <= component.retries

    def end_pool(self, launch: Launch, error: BaseException | None) -> None:
        """Note that all tasks of a pool have ended, well or not."""
        self._note_end(launch, error)

    def _note_begin(self, launch: Launch, many: bool) -> None:
        self._record["count"] += 1
        kept = [*self._record["launches"], launch.facts]
        self._record.update(state="started", many=many, launches=kept[-_KEPT:])
        self._write()

    def coupling(self, group: str, timestamp: Any) -> Coupling:
        """Return where the tasks of a pool on Dask find the run; after `begin_pool`.

        Parameters
        ----------
        group
            Of the tasks.
        timestamp
            Time of the time loop.
        """
        analytics = self.config.analytics[0]
        return Coupling(
            scheduler=self._run["pool"]["scheduler"],
            certificates=self._run["certificates"],
            run=self.coordinated,
            contact=self._run["contacts"][self.port],
            group=group,
            connect=analytics.connect_time_out,
            turn=analytics.step_time_out,
            retry=self.component.on_launch_failure == "retry",
            time=as_time(timestamp),
        )

    def end(
        self,
        launch: Launch,
        error: Exception | None,
        again: bool = False,
        raises: bool = True,
    ) -> None:
        """End a launch: its task has ended, well or not.

        Parameters
        ----------
        launch
            What `begin` returned.
        error
            Why it did not end well.
        again
            Whether the same will be launched again.
        raises
            Whether to raise what is wrong with the launch.
        """
        coordinated = bool(launch.run and self._record["many"])
        took_part = True
        if coordinated and error is None:
            try:
                took_part = self._call(
                    "end_launch", launch=launch.number, ok=True, silent=self.silent
                )
            except Exception as wrong:
                if not self._goes_on_alone():
                    error = wrong
        elif coordinated:
            with suppress(Exception):  # the first error is the one to see
                took_part = self._call(
                    "end_launch", launch=launch.number, ok=False, again=again, silent=self.silent
                )
        if not took_part:
            self._forget(launch)
            return
        self._note_end(launch, error)
        left_out = self.component.on_failure == "leave_out"
        if coordinated and error is not None and not again and not left_out:
            self._abandon(ips_compat.describe(error))
            if raises:
                raise error

    def _forget(self, launch: Launch) -> None:
        """Forget a launch whose program had nothing to do with the run."""
        kept = [facts for facts in self._record["launches"] if facts is not launch.facts]
        self._record.update(
            count=self._record["count"] - 1, state="ended" if kept else "idle", launches=kept
        )
        self._record.setdefault("ok", True)
        self._write()

    def _note_end(self, launch: Launch, error: BaseException | None) -> None:
        cause = "" if error is None else ips_compat.describe(error)
        launch.facts.update(ended=time.time(), ok=error is None, cause=cause)
        self._record.update(state="ended", ok=error is None, cause=cause)
        self._write()

    def _abandon(self, cause: str) -> None:
        """Have the analytics write the record of a run that has failed, if it is not busy."""
        analytics = self.config.analytics[0]
        with suppress(Exception):
            port = self._services.get_port(analytics.port)
            call = self._services.call_nonblocking(port, "abandon", 0.0, cause=cause)
            if ips_compat.wait_first(self._services, [call], _ABANDON) is not None:
                ips_compat.answer(self._services, call)

    def _goes_on_alone(self) -> bool:
        """Whether the simulation goes on although the analysis is lost."""
        return self.config.analytics[0].on_analytics_loss == "continue"

    @contextmanager
    def watched(self) -> Iterator[Callable[[], str]]:
        """Show how far the run is; yields a function that returns why a task must be ended, or "".

        Only where the driver does not watch the run itself.
        """
        if not self._run or not self._record["many"]:
            yield lambda: ""
            return
        from ips_components.ips.watch import LaunchWatch

        with LaunchWatch(
            self.client,
            self.coordinated,
            lambda: self._record,
            self.config.analytics[0],
            retried=self.config.launches_of(self.component)["retry"],
        ) as watch:
            yield watch.hopeless

    def rank_of(self, pid: int, host: str) -> int | None:
        """Return the rank of a process that has opened a bridge; None if that is not known."""
        with suppress(Exception):  # it goes with another error, which is the one to see
            if not self._run:
                return None
            self._connect(_ASIDE)
            known = self._call("record", within=_ASIDE)["ranks"]
            mine = [each for each in known if each.get("pid") == pid]
            here = [each for each in mine if each.get("host") == host] or mine
            return int(here[0]["rank"]) if len(here) == 1 else None
        return None

    def finalize(self) -> None:
        """End the simulation: nothing will be launched any more."""
        if self._record["state"] == "started":
            raise CouplingError(f"{self.port}.finalize was called while a launch was under way")
        self._record["finalized"] = True
        self._write()
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):
                client.close(timeout=2)

    def _write(self) -> None:
        if self.coupled:
            self.records.write(launches_of(self.port), self._record)

    def _call(self, method: str, within: float | None = None, **arguments: Any) -> Any:
        from ips_components.analysis.coordinator_client import call

        limit = within or self.config.analytics[0].connect_time_out
        try:
            return call(self.client, method, self.coordinated, within=limit, **arguments)
        except TimeoutError:
            raise CouplingError(
                f"{self.port}: the Dask scheduler did not answer within {limit:g} s "
                "(CONNECT_TIME_OUT); see its log"
            ) from None


def as_time(timestamp: Any) -> float | None:
    """Return the time of a driver's call as a number, None where it is none."""
    try:
        return float(timestamp)
    except (TypeError, ValueError):
        return None


def set_environment(launch: Launch, extra: Mapping[str, str], oversubscribe: bool) -> None:
    """Set the variables of the next task; the process is the component's own.

    A workflow without an analytics may be a task of another one: its tasks inherit that one's run.
    """
    os.environ.update(launch.environment)
    os.environ.update(extra)
    ips_compat.prepare_launcher(oversubscribe)
    # Where a rank dies, srun leaves the others waiting for it in MPI without this variable.
    os.environ.setdefault("SLURM_KILL_BAD_EXIT", "1")
