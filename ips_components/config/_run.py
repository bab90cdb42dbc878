"""The config of one run: typed, checked, frozen."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from ips_components.config import _types as types
from ips_components.config._array import ArrayConfig
from ips_components.config._declare import parameter
from ips_components.errors import ConfigError
from ips_components.model.step_times import of_time_loop


@dataclass(frozen=True, slots=True)
class TimeLoop:
    """The steps of the simulation: how many, and from which time to which."""

    start: float = 0.0
    finish: float | None = None
    n_steps: int | None = None
    times: tuple[float, ...] = ()

    def after(self, time: float) -> int | None:
        """Return how many of the times are after this one."""
        if self.times:
            return sum(each > time for each in self.times)
        if self.n_steps is None or self.finish is None:
            return None
        width = (self.finish - self.start) / self.n_steps
        return sum(self.start + i * width > time + 1e-9 * width for i in range(self.n_steps + 1))

    @property
    def begin(self) -> float | None:
        """Time at which the first interval begins; None without a time loop."""
        if self.times:
            return self.times[0]
        return None if self.finish is None else self.start

    @property
    def intervals(self) -> int | None:
        """Steps that a driver of the usual form takes: one from each time to the next."""
        return len(self.times) - 1 if self.times else self.n_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationConfig:
    """One simulation component."""

    port: str
    section: str
    nproc: int
    executable: str = parameter(types.TEXT, "Program to run on NPROC processes.")
    args: tuple[str, ...] = parameter(
        types.WORDS,
        "Its arguments; `{NSTEP}`, `{FIRST}` (0, or the steps done at a restart), `{START}`, "
        "`{FINISH}`, `{NPROC}`, `{RUN_DIR}`, `{LAUNCH}` (0, 1, ...) and `{TIME}` (of the driver's "
        "call) are filled in. In a later launch `{FIRST}` is the step at which it goes on.",
        (),
    )
    task_ppn: int = parameter(types.NON_NEGATIVE_INT, "Processes per node; 0: the platform's.", 0)
    task_cpp: int = parameter(types.NON_NEGATIVE_INT, "Cores per process, with srun; 0: all.", 0)
    task_gpp: int = parameter(types.NON_NEGATIVE_INT, "GPUs per process, with srun.", 0)
    omp: bool = parameter(types.BOOL, "Whether IPS sets OpenMP's variables, with srun.", False)
    environment: Mapping[str, str] = parameter(
        types.PAIRS, "Environment variables of the task.", {}
    )
    task_log: str = parameter(types.TEXT, "File for what the task prints.", "simulation.log")
    time_out: float = parameter(
        types.SECONDS,
        "Longest run of the task; 0: as long as its steps keep coming.",
        0.0,
        unit="s",
    )
    procs_per_node: int = 0
    cpus_per_proc: int = 0
    shared_nodes: bool = True
    input_files: tuple[str, ...] = ()
    output_files: tuple[str, ...] = ()
    steps_per_launch: int | None = parameter(
        types.POSITIVE_INT,
        "Steps that each launch puts, under a driver that launches the program many times.",
        None,
    )
    renumber: bool = parameter(
        types.BOOL,
        "Whether the program counts its steps from 0 at every launch; the bridge adds the step at "
        "which the launch goes on.",
        False,
    )
    on_launch_failure: str = parameter(
        types.choice("fail", "retry"),
        "Whether a launch that fails ends the run, or is launched again from the same step.",
        "fail",
    )
    retries: int = parameter(
        types.POSITIVE_INT,
        "How often one launch is launched again, with ON_LAUNCH_FAILURE = retry.",
        1,
    )
    on_failure: str = parameter(
        types.choice("fail", "leave_out"),
        "What it means to the run that this simulation fails, where several feed an analysis: "
        "`leave_out` puts NaN in place of what it has not delivered, and the others go on.",
        "fail",
    )
    restart_files: tuple[str, ...] = ()
    state_files: tuple[str, ...] = ()
    bin_path: str = ""

    def arguments(self, **words: object) -> list[str]:
        """Arguments with ``{NSTEP}`` and the like filled in."""
        filled = []
        for argument in self.args:
            for name, value in words.items():
                argument = argument.replace("{" + name + "}", str(value))
            filled.append(argument)
        return filled

    def program(self) -> str:
        """Path of the executable: in BIN_PATH when it is there, else as it is written."""
        beside = Path(self.bin_path) / self.executable if self.bin_path else None
        return str(beside) if beside is not None and beside.is_file() else self.executable


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyticsConfig:
    """One analytics component."""

    port: str
    section: str
    analysis: str = parameter(
        types.FUNCTIONS_OR_NONE,
        "Function from external arrays to lazy results; several share the blocks of one run. "
        "Empty: nothing is analysed until a client attaches.",
    )
    analysis_args: Mapping[str, Any] = parameter(types.ARGUMENTS, "Its keyword arguments.", {})
    source: str = parameter(
        types.TEXT,
        "A stored field (Zarr, NetCDF, HDF5 or npy) to analyse instead of a simulation, which is "
        "then not run.",
        "",
    )
    dask_nodes: int = parameter(types.POSITIVE_INT, "Nodes for Dask.", 1)
    dask_workers_per_node: int = parameter(
        types.POSITIVE_INT,
        "Dask workers on each of these nodes; each of them gets a part of every step.",
        1,
    )
    dask_ppw: int | None = parameter(
        types.POSITIVE_INT,
        "Threads of each Dask worker; the platform's PROCS_PER_NODE when it is not given.",
        None,
    )
    dask_worker_per_gpu: bool = parameter(
        types.BOOL, "One Dask worker for each GPU of the nodes, bound to it.", False
    )
    use_shifter: bool = parameter(
        types.BOOL, "Run scheduler, workers and analysis in a container.", False
    )
    results: str = parameter(
        types.TEXT, "Path of the results; a relative one is below the run's directory.", ""
    )
    results_format: str = parameter(
        types.choice("zarr", "netcdf"), "Format of the results.", "zarr"
    )
    overwrite: bool = parameter(
        types.BOOL,
        "Whether RESULTS of an earlier run are replaced; else a path that exists is refused.",
        False,
    )
    memory_share: float = parameter(
        types.SHARE,
        "Part of a worker's memory for data that no task has consumed yet; beyond it ranks wait.",
        0.3,
    )
    replay_steps: int = parameter(
        types.NON_NEGATIVE_INT,
        "Steps that each rank keeps, to send again when a worker dies.",
        2,
        unit="steps",
    )
    replay_bytes: int = parameter(
        types.NON_NEGATIVE_INT,
        "Memory that each rank may take for that; where it is not enough, fewer steps are kept.",
        1 << 30,
        unit="bytes",
    )
    slot_bytes: int = parameter(
        types.POSITIVE_INT,
        "Memory that each rank may take for all blocks it has put and not overwritten: on their "
        "way, read in place by a worker, or kept to be sent again. Where it is not enough, fewer "
        "of them are kept; one block of each array always is.",
        1 << 30,
        unit="bytes",
    )
    chunk_bytes: int = parameter(
        types.NON_NEGATIVE_INT,
        "Bytes towards which several steps go into one chunk, where the analysis cannot notice it "
        "(it takes no `run`, and CHUNKS does not say otherwise): at most 32 steps and a sixteenth "
        "of the run. 0: one step in each chunk.",
        32 << 20,
        unit="bytes",
    )
    latency: float = parameter(
        types.TIME_OUT,
        "Time for which the first step of such a chunk may wait for its last one, where "
        "STEP_SECONDS says what a step takes.",
        1.0,
        unit="s",
    )
    step_seconds: float = parameter(
        types.SECONDS,
        "What a step of the simulation takes, as far as it is known; 0: not known.",
        0.0,
        unit="s",
    )
    streaming_reductions: bool = parameter(
        types.BOOL,
        "Whether reductions over time of external arrays keep one running state per chunk in "
        "space; else Dask's trees of partial results.",
        True,
    )
    on_analytics_loss: str = parameter(
        types.choice("continue", "abort"),
        "Whether the simulation goes on when the analytics is lost.",
        "continue",
    )
    connect_time_out: float = parameter(
        types.TIME_OUT,
        "Longest wait for the Dask workers, and for the simulation's first word.",
        120.0,
        unit="s",
    )
    contract_time_out: float = parameter(
        types.TIME_OUT,
        "Longest wait of the simulation until the graph is submitted.",
        300.0,
        unit="s",
    )
    step_time_out: float = parameter(
        types.TIME_OUT, "Longest time without progress of any side.", 600.0, unit="s"
    )
    drain_time_out: float = parameter(
        types.TIME_OUT, "Longest wait for the other side after one side has ended.", 120.0, unit="s"
    )
    analysis_time_out: float = parameter(
        types.TIME_OUT,
        "Longest time that the analysis may take after the simulation has ended.",
        3600.0,
        unit="s",
    )
    silence_time_out: float = parameter(
        types.TIME_OUT,
        "Longest time without a sign of life of a rank, a worker or the scheduler; a third more "
        "for coming back.",
        30.0,
        unit="s",
    )
    teardown_time_out: float = parameter(
        types.TIME_OUT,
        "Longest time that worker plugins may take when their workers close, as long as they make "
        "progress.",
        3600.0,
        unit="s",
    )
    lanes: tuple[str, ...] = parameter(
        types.choices("shm", "tcp"), "Ways that data may take.", ("shm", "tcp")
    )
    security: str = parameter(
        types.choice("dask", "tls", "none"),
        "What needs the run's certificates: `dask`, the traffic of scheduler, workers and clients; "
        "`tls`, blocks over TCP as well (ranks in C or Fortran then need a Dask worker on their "
        "node); `none`, nothing: any user who reaches the ports can run code as you.",
        "dask",
    )
    loopback: bool | None = parameter(
        types.BOOL,
        "Whether Dask and the receivers listen on the loopback interface only; by default where "
        "all processes of the run are on one host.",
        None,
    )
    private: bool = parameter(
        types.BOOL,
        "Whether the run's directory is closed to other users; else its permissions are those that "
        "the umask gives.",
        False,
    )
    state_files: tuple[str, ...] = ()
    wait: bool = parameter(
        types.BOOL,
        "Whether each step of a driver's time loop waits until all that depends only on data put "
        "until then is computed.",
        False,
    )
    attach: bool = parameter(
        types.BOOL,
        "Whether other programs of the same user may attach to the run (`ips_components.attach`).",
        True,
    )
    live_page: bool = parameter(types.BOOL, "Whether a page shows the run live.", False)
    dashboard: bool = parameter(
        types.BOOL,
        "Whether Dask's dashboard can be looked at, on the loopback interface and under an address "
        "with a secret; needs bokeh.",
        True,
    )
    task_log: bool = parameter(
        types.BOOL,
        "Whether external_tasks.jsonl in the run directory gets every change of state of an "
        "external task.",
        True,
    )
    progress: bool = parameter(types.BOOL, "Whether the terminal shows progress.", True)
    figure: bool = parameter(types.BOOL, "Whether to draw a figure of the results.", True)
    worker_plugins: str | None = parameter(
        types.FUNCTION,
        "Function that gets the working directory and returns worker plugins, to ride beside ours.",
        None,
    )
    arrays: tuple[ArrayConfig, ...] = ()
    input_dir: str = ""
    input_files: tuple[str, ...] = ()
    output_files: tuple[str, ...] = ()
    gpus_per_node: int = 0
    shared_nodes: bool = True

    @property
    def n_receivers(self) -> int:
        """Dask workers that will be started."""
        per_node = self.gpus_per_node if self.dask_worker_per_gpu else 1
        return self.dask_nodes * per_node * self.dask_workers_per_node

    @property
    def deadlines(self) -> dict[str, float]:
        """Deadlines by the names that the wire uses."""
        return {
            "connect": self.connect_time_out,
            "contract": self.contract_time_out,
            "step": self.step_time_out,
            "drain": self.drain_time_out,
            "silence": self.silence_time_out,
        }


@dataclass(frozen=True, slots=True)
class RunConfig:
    """One simulation of ``ips.py``: everything that its config file says to our components."""

    file: str
    sim_name: str
    sim_root: str
    log_file: str
    run_id: str = ""
    comment: str = ""
    mode: str = "NORMAL"
    restart_root: str = ""
    restart_time: str = "LATEST"
    times: TimeLoop = TimeLoop()
    simulations: tuple[SimulationConfig, ...] = ()
    analytics: tuple[AnalyticsConfig, ...] = ()
    coupled: tuple[SimulationConfig, ...] = ()
    """Components that are none of ours, and whose tasks put data (COUPLED = True)."""
    oversubscribe: bool = False
    attended: bool = True
    """Whether the driver is the one of this package: it launches every simulation once."""
    checkpoints: bool = False
    """Whether the config asks IPS to keep checkpoints."""
    goes_on: Mapping[str, int] | None = None
    """From where the launches of a restarted run go on: first_step, first_launch, published."""

    @property
    def coupled_ports(self) -> tuple[SimulationConfig, ...]:
        """The components whose tasks put data into the run."""
        return (*self.simulations, *self.coupled)

    @property
    def n_steps(self) -> int | None:
        """Steps that the simulation puts; None where it is not known."""
        if self.attended:
            return self.times.n_steps
        totals = {self.steps_of(each) for each in self.coupled_ports}
        return totals.pop() if len(totals) == 1 else None

    @property
    def launches(self) -> int | None:
        """Launches of each simulation in the whole run, those before a restart included."""
        if self.goes_on is None:
            return self.times.intervals
        left = self.times.after(self.checkpoint_time())
        return None if left is None else self.goes_on["first_launch"] + left

    def steps_of(self, simulation: SimulationConfig) -> int | None:
        """Steps of a simulation in the whole run; None where it is not known."""
        if self.attended:
            return self.times.n_steps
        per_launch, launches = simulation.steps_per_launch, self.launches
        return None if per_launch is None or launches is None else per_launch * launches

    def launches_of(self, simulation: SimulationConfig) -> dict[str, Any]:
        """What the coordinator must know of a simulation that is launched many times."""
        if self.attended:
            return {}
        return {
            "many": True,
            "steps": simulation.steps_per_launch,
            "count": self.launches,
            "renumber": simulation.renumber,
            "retry": simulation.on_launch_failure == "retry",
            "checkpoint": self.checkpoints,
            "begin": self.times.begin if self.goes_on is None else self.checkpoint_time(),
            **(self.goes_on or {}),
        }

    def times_of_steps(self) -> dict[str, Any]:
        """Physical times of the steps of a simulation that is launched once, as plain values."""
        loop = self.times
        return of_time_loop(loop.times, loop.start, loop.finish, loop.n_steps).to_plain()

    def checkpoint_time(self) -> float:
        """Time stamp of the checkpoint to restart from: the number of steps that were done.

        Raises
        ------
        ConfigError
            If RESTART_ROOT has no checkpoint, or not this one.
        """
        folder = Path(self.restart_root, "restart")
        stamps = []
        for each in sorted(folder.iterdir()) if folder.is_dir() else ():
            with suppress(ValueError):
                stamps.append(float(each.name))
        wanted = max(stamps, default=None)
        if self.restart_time != "LATEST":
            with suppress(ValueError):
                wanted = float(self.restart_time)
        if wanted is None or wanted not in stamps:
            found = ", ".join(f"{stamp:g}" for stamp in stamps) or "none"
            raise ConfigError(
                f"{self.file}, RESTART_TIME: there is no checkpoint {self.restart_time} in "
                f"{folder} "
                f"(found {found}); a run writes one at its end when its config has a section "
                "[CHECKPOINT]"
            )
        return wanted

    def parameters(self) -> dict[str, Any]:
        """Every value as it was resolved, flat: ``SECTION.NAME`` to value."""
        flat: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in ("simulations", "analytics"):
                for component in value:
                    flat.update(_flat(component, component.section))
            elif is_dataclass(value):
                flat.update(_flat(value, "TIME_LOOP"))
            else:
                flat[each.name.upper()] = value
        return flat


def _flat(config: Any, section: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for each in fields(config):
        value = getattr(config, each.name)
        if each.name == "arrays":
            for array in value:
                flat.update(_flat(array, f"{section}.ARRAYS.{array.name}"))
        elif each.name not in ("port", "section", "name"):
            flat[f"{section}.{each.name.upper()}"] = value
    return flat
