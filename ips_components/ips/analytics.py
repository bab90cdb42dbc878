"""IPS component that runs a Dask analysis of what a simulation puts, in transit.

In the config: ``MODULE = ips_components.analytics`` and ``NAME = Analytics``.
"""

import shutil
import socket
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ipsframework import Component

from ips_components import ips_compat
from ips_components.config import AnalyticsConfig
from ips_components.errors import IPSComponentsError
from ips_components.ips import coupled_component
from ips_components.ips.analytics_pool import AnalyticsPool
from ips_components.ips.conclusion import Conclusion
from ips_components.ips.coupling import (
    COORDINATOR,
    DONE,
    FAILED,
    OPEN,
    OUTCOME,
    RUN,
    STARTING,
    Records,
    new_run_id,
    run_directory,
)
from ips_components.ips.events import TOPIC as PROGRESS_TOPIC
from ips_components.ips.loop_checkpoint import LoopState
from ips_components.ips.multi_simulation import one_record
from ips_components.ips.published import to_dataset, write_files
from ips_components.ips.run_monitor import RunMonitor

ips_compat.install()

__all__ = ["PROGRESS_TOPIC", "Analytics", "coupled_component"]

_ANSWER = 5.0


class AnalyticsFailed(IPSComponentsError):
    """A coupled run did not end well; the message is its first cause."""


class Analytics(Component):
    """Starts a Dask pool with receivers in its workers, and runs the analysis in it.

    ``init`` opens the run, and ``finalize`` ends it: it waits for the rest of the graph, writes
    record, report and summary, and raises when anything was wrong.
    """

    _state = ""
    """File with the state that the analysis goes on from."""
    _new_state = ""
    """File with the state that it reached."""
    _loop = LoopState()
    """From where the time loop goes on."""
    _logged = False
    """Whether the failure of the analysis is in the log."""
    _attended = False
    """Whether the driver watches the run, and writes its record."""
    _pool: AnalyticsPool | None = None
    _known: dict[str, Any]
    """The record `coupling.RUN`, from `init` on."""
    _outcome: dict[str, Any] | None = None

    def init(
        self, timestamp: float = 0.0, *, attended: bool = False, **keywords: Any
    ) -> dict[str, Any]:
        """Open a run: start the pool, submit the analysis, publish where the receivers are.

        Parameters
        ----------
        timestamp
            Time of the time loop.
        attended
            Whether the driver watches the run itself: it calls `watch`, and writes the record.

        Returns
        -------
        dict
            The record `coupling.RUN`.
        """
        config = self._config()
        self._records = Records(self.services)
        self._attended = attended
        self._started = time.time()
        # A driver that is derived from ours is not known from the config, but says so here.
        run_config = replace(
            ips_compat.run_config(self.services), attended=attended, goes_on=self._loop.position
        )
        run = new_run_id()
        run_dir = run_directory(run_config.sim_root, run, config.private)
        if config.input_files:
            self.services.stage_input_files(self.INPUT_FILES)
        pool = self._pool = AnalyticsPool(
            self.services, config, run_config, run, run_dir, self._state, self._loop.windows
        )
        self._known = {
            "port": config.port,
            "run": run,
            "run_dir": str(run_dir),
            "pool": pool.address,
        }
        try:
            self._start(pool)
        except Exception as error:
            self._publish_state(OPEN)
            self._fail(error)
            raise
        self._publish_state(OPEN)
        return self._known

    def restart(
        self, timestamp: float = 0.0, *, attended: bool = False, **keywords: Any
    ) -> dict[str, Any]:
        """The same, with the state of the analysis from the checkpoint of RESTART_TIME.

        Raises
        ------
        ConfigError
            When there is no such checkpoint, or it has no state of this analysis.
        """
        from ips_components.analysis.checkpoint import FILE

        run_config = ips_compat.run_config(self.services)
        if attended:
            stamp = run_config.checkpoint_time()
            self.services.get_restart_files(run_config.restart_root, stamp, [FILE])
            self._state = str(Path(self.services.get_working_dir(), FILE))
        else:
            self._loop = LoopState.restored(self.services, run_config, self._config())
        return self.init(timestamp, attended=attended, **keywords)

    def checkpoint(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """Keep the state of the analysis: what it returned, or in a time loop that of its windows.

        Raises
        ------
        AnalyticsFailed
            Before `init`.
        ContractError
            When an analysis cannot be kept half way.
        """
        from ips_components.analysis.checkpoint import FILE

        if not self._attended:
            pool = self._open_pool("checkpoint")
            if not pool.config.source:
                self._keep(pool, timestamp)
        elif self._new_state:
            shutil.copy(self._new_state, Path(self.services.get_working_dir(), FILE))
            self.services.save_restart_files(timestamp, [FILE])

    def _keep(self, pool: AnalyticsPool, timestamp: Any) -> None:
        from ips_components.errors import SimulationLost

        try:
            self._loop.keep(self.services, pool, timestamp)
        except SimulationLost as error:  # the run has failed already
            if pool.config.on_analytics_loss != "continue":
                raise
            self.services.warning("nothing of the analysis is kept: %s", error)

    def step(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """Write what the analysis has published since the last call.

        It is written to the NetCDF files of OUTPUT_FILES and STATE_FILES, and the state updated.
        With ``WAIT = True`` first wait until all that depends only on data put until now is
        computed; else return at once, and the analysis goes on beside the next launch.

        Raises
        ------
        AnalyticsFailed
            When the run has failed, unless the simulation is to go on without its analysis.
        """
        pool = self._open_pool("step")
        config = pool.config
        if config.source or self._attended:
            return
        try:
            published = self._published(pool)
        except Exception as error:
            if config.on_analytics_loss == "continue":
                self.services.warning("nothing of the analysis is written: %s", error)
                return
            raise
        self._write_published(pool, published, timestamp)

    def _write_published(
        self, pool: AnalyticsPool, published: list[tuple[int, bytes, float]], timestamp: Any
    ) -> None:
        """Write published values to the files that the section lists."""
        config = pool.config
        files = [f for f in (*config.output_files, *config.state_files) if f.endswith(".nc")]
        if not published or not files:
            return
        dataset = to_dataset(published, timestamp, pool.run)
        write_files(dataset, Path(self.services.get_working_dir()), list(dict.fromkeys(files)))
        if config.output_files:
            self.services.stage_output_files(
                timestamp, list(config.output_files), save_plasma_state=False
            )
        if config.state_files:
            self.services.update_state(list(config.state_files))

    def _published(self, pool: AnalyticsPool) -> list[tuple[int, bytes, float]]:
        """Return what the analysis has published since the last call; wait for it if asked to."""
        from ips_components.analysis.coordinator_client import call

        client, limit = pool.running.client, pool.config.step_time_out
        if pool.config.wait:
            for run in pool.runs.values():
                call(client, "quiet", run, timeout=limit, within=limit + _ANSWER)
        found: list[tuple[int, bytes, float]] = call(client, "published", pool.run, within=limit)
        return found

    def watch(self, timestamp: float = 0.0, **keywords: Any) -> dict[str, Any]:
        """Follow the run to its end: all data have come, and the analysis has its results.

        Returns
        -------
        dict
            ``results`` (path), ``variables`` and ``contract`` as from the analysis task.

        Raises
        ------
        TaskPoolError
            When the analysis raised, or its pool was lost.
        """
        from ips_components.report.drawing import Drawing
        from ips_components.report.panels import FILE_NAME as PANELS

        pool = self._open_pool("watch")
        config = pool.config
        with ExitStack() as stack:
            drawing = None
            if config.figure:
                panels = pool.run_dir / PANELS
                stack.callback(panels.unlink, missing_ok=True)
                with suppress(OSError):  # a figure that cannot be drawn is no reason to fail a run
                    drawing = stack.enter_context(Drawing(panels))
            if config.source:
                # No ranks and no receivers: nothing to watch, and no block to account for.
                pool.running.wait_for_tasks()
                self._records.write(COORDINATOR, {"ledger": {"closed": True}})
            else:
                self._follow(pool)
                with suppress(OSError):  # a lost pool has failed its tasks, which is said below
                    self._write_published(pool, self._published(pool), timestamp)
            self._take_result(pool, drawing)
        if config.output_files:
            self.services.stage_output_files(
                timestamp, list(config.output_files), save_plasma_state=False
            )
        return self._outcome or {}

    def _take_result(self, pool: AnalyticsPool, drawing: Any) -> None:
        """Take the result, which ends the pool, and draw the results meanwhile."""
        from ips_components.report.drawing import FIGURE

        outcome = dict(pool.peek())
        panels, figures = outcome.pop("panels", {}), []
        drawn = drawing is not None and "path" in panels
        if drawn:
            drawing.begin(pool.run_dir / FIGURE)
        try:
            self._new_state = pool.result().get("checkpoint", "")
        finally:  # results are there, too, when the teardown of a plugin was cut
            fault = drawing.result() if drawn else panels.get("fault", "")
            if fault:
                self.services.warning("no figure of %s: %s", outcome["results"], fault)
            elif drawn:
                figures = [FIGURE]
            self._outcome = {**outcome, "figures": figures}
            self._records.write(OUTCOME, self._outcome)

    def finalize(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """End the run: wait for the rest of the graph, write the record, end the pool.

        Raises
        ------
        AnalyticsFailed
            When anything was wrong in the run.
        """
        if self._pool is None:
            return
        state = self._records.read(RUN)
        if state["state"] == OPEN and not self._attended:
            try:
                if self._outcome is None:
                    self._end_simulations()
                    self.watch(timestamp)
            except Exception as error:
                self._fail(error)
                raise
            cause = self._conclude(None)
            if cause:
                raise AnalyticsFailed(cause)
        self._pool.close()
        if state["state"] == FAILED and not self._attended:
            raise AnalyticsFailed(state["cause"])

    def abandon(self, timestamp: float = 0.0, *, cause: str, **keywords: Any) -> None:
        """Fail the run from outside, and write its record."""
        if self._pool is None or self._records.read(RUN).get("state") != OPEN:
            return
        self._keep_coordinator_record(self._pool)
        self._fail(AnalyticsFailed(cause))

    def conclude_terminated(self) -> None:
        """Write the record of a run that the workflow ends before `finalize`.

        The framework does not answer services any more, and has left the cause.
        """
        pool = self._pool
        if pool is None or self._attended or self._known.get("state") != OPEN:
            return
        pool.withdraw()  # first: what follows may be cut short where the scheduler is gone
        file = pool.run_dir / ips_compat.CAUSE
        cause = f"the workflow ended before finalize of {pool.config.port} was called"
        with suppress(OSError):
            cause = file.read_text()
            file.unlink()
        conclusion = self._conclusion(pool)
        with suppress(Exception):  # a pool that is lost has no record any more
            conclusion.records = {COORDINATOR: self._coordinator_record(pool)}
        conclusion.records = conclusion.records or {COORDINATOR: {}}
        conclusion.write(AnalyticsFailed(cause))

    def terminate_pool(self) -> None:
        """End the pool when its result was not taken."""
        if self._pool is not None:
            self._pool.close()

    # --- internals ------------------------------------------------------------------------------

    def _start(self, pool: AnalyticsPool) -> None:
        """Start the pool, and show that this takes some seconds."""
        from ips_components.report import Progress

        config = pool.config
        workers = f"{config.n_receivers} Dask worker{'' if config.n_receivers == 1 else 's'}"
        with Progress(quiet=not config.progress) as progress:
            progress.doing(f"starting {workers}", run=pool.run, run_dir=str(pool.run_dir))
            pool.start()
            self._known |= {
                "pool": dict(pool.address),
                "runs": pool.runs,
                "contacts": pool.contacts,
                "certificates": pool.certificates,
            }
            self._publish_state(STARTING)
            pool.open()
            progress.doing(
                "waiting for the simulation to connect",
                live_page=next(iter(pool.pages.values()), ""),
                dashboard=pool.dashboard,
            )

    def _config(self) -> AnalyticsConfig:
        run = ips_compat.run_config(self.services)
        section = ips_compat.section_of(self)
        return next(each for each in run.analytics if each.section == section)

    def _open_pool(self, method: str) -> AnalyticsPool:
        if self._pool is None:
            port = self._config().port
            raise AnalyticsFailed(
                f"{port}.{method} was called before {port}.init: the driver must call init of "
                f"every port before the time loop"
            )
        return self._pool

    def _publish_state(self, state: str, cause: str = "") -> None:
        self._known |= {"state": state, "cause": cause}
        self._records.write(RUN, self._known)

    def _fail(self, error: Exception) -> None:
        """Write the record of a run that has failed, and end its pool."""
        if self._attended:
            return  # the driver does it
        with suppress(Exception):  # the first error is the one to see
            self._conclude(error)
        self.terminate_pool()

    def _conclude(self, error: BaseException | None) -> str:
        """Write the record; return why the run failed, empty when it went well."""
        assert self._pool is not None
        cause = self._conclusion(self._pool).write(error)
        self._publish_state(FAILED if cause else DONE, cause)
        return cause

    def _conclusion(self, pool: AnalyticsPool) -> Conclusion:
        return Conclusion(
            self.services,
            pool.run_config,
            pool.run,
            pool.run_dir,
            self._started,
            dict(pool.address),
            self._outcome or {},
        )

    def _end_simulations(self) -> None:
        """Let the coordinator know that nothing will be launched any more."""
        from ips_components.analysis.coordinator_client import call

        assert self._pool is not None
        if self._pool.config.source:
            return
        for run in self._pool.runs.values():
            call(self._pool.running.client, "end_simulation", run)

    def _follow(self, pool: AnalyticsPool) -> None:
        """Show how far the run is, and fail it when nothing more can be expected."""
        from ips_components.report import Progress
        from ips_components.report.progress import tunnel

        with Progress(quiet=not pool.config.progress) as progress:
            for name, page, hint in pool.addresses():
                host = socket.gethostname()
                progress.note(
                    f"{name} on {host}: {hint}",
                    terminal=f"{name}: {page}\n  {tunnel(page, host)}",
                )
            try:
                monitor = RunMonitor(self.services, self._records, pool, progress)
                monitor.follow(lambda: self._keep_coordinator_record(pool))
            finally:
                self._keep_coordinator_record(pool)
                pool.withdraw()

    def _keep_coordinator_record(self, pool: AnalyticsPool) -> None:
        """Keep what the coordinator knows, for the record of the run."""
        with suppress(Exception):  # a pool that is lost has no record any more
            whole = self._coordinator_record(pool)
            self._records.write(COORDINATOR, whole)
            fatal = whole["fatal"] or {}
            if fatal.get("who") == "analysis" and not self._logged:
                self._logged = True
                self.services.error("the analysis failed\n%s", fatal["cause"])

    def _coordinator_record(self, pool: AnalyticsPool) -> dict[str, Any]:
        from ips_components import analysis

        client = pool.running.client
        return one_record(
            {
                port: analysis.run_record(client, run, within=_ANSWER)
                for port, run in pool.runs.items()
            }
        )
