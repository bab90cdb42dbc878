"""IPS component that runs an MPI simulation which puts its data through the bridge.

In the config: ``MODULE = ips_components.simulation`` and ``NAME = Simulation``.
"""

import os
import time
from pathlib import Path
from typing import Any

from ipsframework import Component

from ips_components import ips_compat
from ips_components.config import SimulationConfig
from ips_components.errors import IPSComponentsError
from ips_components.ips.notices import ABORT, leave_notice, read_notice, task_of
from ips_components.wire.contact import ENVIRONMENT

ips_compat.install()

_LOOK = 0.1


class SimulationFailed(IPSComponentsError):
    """The simulation's task did not end well."""


class Simulation(Component):
    """Launches one MPI task with the contact file in its environment, and waits for it."""

    def init(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """Stage the input files."""
        config = self._config()
        if self._has_state():
            self.services.stage_state()
        if config.input_files:
            self.services.stage_input_files(self.INPUT_FILES)

    def step(
        self,
        timestamp: float = 0.0,
        contact: str = "",
        run_dir: str = "",
        **keywords: Any,
    ) -> dict[str, Any]:
        """Run the simulation from its first step to its last.

        Parameters
        ----------
        timestamp
            Time of the time loop.
        contact
            Path of the contact file; empty for a simulation that runs alone.
        run_dir
            Directory of the run; notices are looked for there.

        Returns
        -------
        dict
            ``executable``, ``nproc``, ``exit_status``, ``seconds``, ``log``.

        Raises
        ------
        SimulationFailed
            With exit status and last words of the task.
        """
        config = self._config()
        run = ips_compat.run_config(self.services)
        self._prepare_environment(config, contact)
        log = Path(self.services.get_working_dir()) / config.task_log
        arguments = config.arguments(
            NSTEP=run.times.n_steps,
            START=run.times.start,
            FINISH=run.times.finish,
            NPROC=config.nproc,
            RUN_DIR=run_dir,
            FIRST=int(run.checkpoint_time()) if run.mode == "RESTART" else 0,
        )
        started = time.monotonic()
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
        status = self._wait(config, task, log, Path(run_dir) if run_dir else None)
        facts = {
            "executable": " ".join([config.program(), *arguments]),
            "nproc": config.nproc,
            "exit_status": status,
            "seconds": time.monotonic() - started,
            "log": str(log),
        }
        if status != 0:
            if run_dir:  # for the run's record: an exception carries no facts
                leave_notice(Path(run_dir), task_of(config.port), facts)
            ended = f"exit status {status}" if status > 0 else f"signal {-status}"
            raise SimulationFailed(
                f"the simulation ({facts['executable']}, {config.nproc} processes) ended with "
                f"{ended}{_last_words(log)}"
            )
        if config.output_files:
            self.services.stage_output_files(
                timestamp, list(config.output_files), save_plasma_state=self._has_state()
            )
        if self._has_state():
            self.services.update_state()
        return facts

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
                run.restart_root, timestamp, list(self._config().restart_files)
            )

    # --- internals ------------------------------------------------------------------------------

    def _config(self) -> SimulationConfig:
        run = ips_compat.run_config(self.services)
        section = ips_compat.section_of(self)
        return next(each for each in run.simulations if each.section == section)

    def _has_state(self) -> bool:
        return bool(self.config.get("STATE_FILES") or self.services.sim_conf.get("STATE_FILES"))

    def _prepare_environment(self, config: SimulationConfig, contact: str) -> None:
        """Set variables for the task; this process is the component's own."""
        os.environ.pop(ENVIRONMENT, None)
        if contact:
            os.environ[ENVIRONMENT] = contact
        os.environ.update(config.environment)
        ips_compat.prepare_launcher(ips_compat.run_config(self.services).oversubscribe)
        # Where a rank dies, srun leaves the others waiting for it in MPI unless it is told not to.
        os.environ.setdefault("SLURM_KILL_BAD_EXIT", "1")

    def _wait(self, config: SimulationConfig, task: int, log: Path, run_dir: Path | None) -> int:
        """Wait for the task; end it when the driver says so or its time is over."""
        started = time.monotonic()
        while (status := self.services.wait_task_nonblocking(task)) is None:
            why = ""
            if config.time_out and time.monotonic() - started > config.time_out:
                why = f"it ran for more than TIME_OUT = {config.time_out:g} s"
            elif run_dir is not None and (notice := read_notice(run_dir, ABORT)):
                why = notice["cause"]
            if why:
                self.services.kill_task(task)
                raise SimulationFailed(f"the simulation was ended: {why}{_last_words(log)}")
            time.sleep(_LOOK)
        return int(status)


def _last_words(log: Path) -> str:
    """What the task printed last, to go with the message of its end."""
    return f"; the last lines of {log}:\n{ips_compat.tail(log) or '(nothing)'}"
