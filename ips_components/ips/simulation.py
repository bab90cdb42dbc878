"""IPS component that runs an MPI simulation which puts its data through the bridge.

In the config: ``MODULE = ips_components.simulation`` and ``NAME = Simulation``.
"""

import math
import time
from pathlib import Path
from typing import Any

from ipsframework import Component

from ips_components import ips_compat
from ips_components.config import RunConfig, SimulationConfig
from ips_components.deadlines import Deadline
from ips_components.errors import IPSComponentsError
from ips_components.ips.coupling import ABORT
from ips_components.ips.launches import Launch, Launches, set_environment
from ips_components.ips.task_end import describe_end, last_lines

ips_compat.install()

_LOOK = 0.1


class SimulationFailed(IPSComponentsError):
    """The simulation's task did not end well."""


class Simulation(Component):
    """Launches one MPI task for each step, with the contact file in its environment.

    All launches put into the arrays of one run, which the analytics has opened.
    """

    _launches: Launches | None = None

    def init(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """Stage the input files."""
        if self._config().input_files:
            self.services.stage_input_files(self.INPUT_FILES)

    def step(
        self, timestamp: float = 0.0, *, attended: bool = False, **keywords: Any
    ) -> dict[str, Any]:
        """Launch the program and wait for it.

        Parameters
        ----------
        timestamp
            Time of the time loop.
        attended
            Whether the driver watches the run itself, and calls this method once.

        Returns
        -------
        dict
            ``executable``, ``nproc``, ``exit_status``, ``seconds``, ``log``; empty where the
            simulation has failed and is left out of the run.

        Raises
        ------
        SimulationFailed
            With exit status and last lines of the task.
        CouplingError
            When the analytics has not been initialised.
        """
        config, run = self._config(), ips_compat.run_config(self.services)
        state_files = self._state_files(config)
        if state_files:  # as the other components have left them
            self.services.stage_state(state_files)
        launches = self._of_this_component(run, config)
        if not attended and (cause := launches.left_out):
            self.services.warning("%s is left out: %s", config.port, cause)
            return {}
        retries = 0 if attended or config.on_launch_failure == "fail" else config.retries
        for left in range(retries, -1, -1):
            launch = launches.begin(config.nproc, timestamp, attended)
            try:
                facts = self._launch(config, run, launch, timestamp)
            except Exception as error:
                launches.end(launch, error, again=left > 0)
                if not left and config.on_failure == "leave_out":
                    self.services.error("%s failed, and is left out: %s", config.port, error)
                    return {}
                if not left:
                    raise
                self.services.warning(
                    "launch %d failed, and is launched again: %s", launch.number, error
                )
                continue
            launches.end(launch, None)
            break
        if config.output_files:
            self.services.stage_output_files(
                timestamp, list(config.output_files), save_plasma_state=bool(state_files)
            )
        if config.state_files:
            self.services.update_state(list(config.state_files))
        return facts

    def finalize(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """End the simulation: nothing will be launched any more."""
        if self._launches is not None:
            self._launches.finalize()

    def checkpoint(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """Keep RESTART_FILES."""
        if self._config().restart_files:
            self.services.save_restart_files(timestamp, list(self._config().restart_files))

    def restart(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """Stage the input files, and RESTART_FILES from the checkpoint."""
        self.init(timestamp)
        if self._config().restart_files:
            run = ips_compat.run_config(self.services)
            self.services.get_restart_files(
                run.restart_root, run.checkpoint_time(), list(self._config().restart_files)
            )

    # --- internals ------------------------------------------------------------------------------

    def _config(self) -> SimulationConfig:
        run = ips_compat.run_config(self.services)
        section = ips_compat.section_of(self)
        return next(each for each in run.simulations if each.section == section)

    def _of_this_component(self, run: RunConfig, config: SimulationConfig) -> Launches:
        if self._launches is None:
            self._launches = Launches(self.services, run, config.port)
        return self._launches

    def _state_files(self, config: SimulationConfig) -> list[str]:
        """Files of the state: those of the whole workflow, and those of this component."""
        common = str(self.services.sim_conf.get("STATE_FILES") or "").split()
        return list(dict.fromkeys([*common, *config.state_files]))

    def _launch(
        self, config: SimulationConfig, run: RunConfig, launch: Launch, timestamp: Any
    ) -> dict[str, Any]:
        """Run the program once; return the facts of a task that ended well."""
        assert self._launches is not None
        set_environment(launch, config.environment, run.oversubscribe)
        log = Path(self.services.get_working_dir()) / config.task_log
        arguments = config.arguments(
            NSTEP=run.times.n_steps,
            START=run.times.start,
            FINISH=run.times.finish,
            NPROC=config.nproc,
            RUN_DIR=launch.run_dir,
            FIRST=launch.first,
            LAUNCH=launch.number,
            TIME=timestamp,
        )
        started = time.monotonic()
        executable = " ".join([config.program(), *arguments])
        launch.facts.update(executable=executable, log=str(log))
        task = self.services.launch_task(
            config.nproc,
            self.services.get_working_dir(),
            config.program(),
            *arguments,
            logfile=str(log),
            task_ppn=config.task_ppn or self.services.ppn,
            task_cpp=config.task_cpp or self.services.cpp,
            task_gpp=config.task_gpp,
            omp=config.omp,
        )
        status = self._wait(config, task, log, coupled=bool(launch.run))
        launch.facts.update(exit_status=status, seconds=time.monotonic() - started)
        if status != 0:
            who = f"the simulation ({executable}, {config.nproc} processes)"
            raise SimulationFailed(describe_end(who, status, log, self._launches.rank_of))
        names = ("executable", "nproc", "exit_status", "seconds", "log")
        return {name: launch.facts[name] for name in names}

    def _wait(self, config: SimulationConfig, task: int, log: Path, coupled: bool) -> int:
        """Wait for the task; end it when the driver says so or its time is over."""
        assert self._launches is not None
        deadline = Deadline(config.time_out or math.inf)
        with self._launches.watched() as hopeless:
            while (status := self.services.wait_task_nonblocking(task)) is None:
                why = ""
                if deadline.expired:
                    why = f"it ran for more than TIME_OUT = {config.time_out:g} s"
                elif coupled and (abort := self._launches.records.read(ABORT)):
                    why = abort["cause"]
                elif coupled:
                    why = hopeless()
                if why:
                    self.services.kill_task(task)
                    raise SimulationFailed(f"the simulation was ended: {why}{last_lines(log)}")
                time.sleep(_LOOK)
        return int(status)
