"""Every parameter that is read, as one table.

The checks, the messages of errors, the defaults and the reference page are all made from it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ips_components.config import _types as kinds
from ips_components.config._types import Kind, choice, choices


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED: Any = _Required()


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a config or platform file.

    Parameters
    ----------
    name
        As written in the file.
    scope
        Which sections may have it: a key of `SCOPES`.
    kind
        What its value may be.
    meaning
        One sentence for the reference page.
    default
        Value when it is not given, `REQUIRED` when it must be given.
    unit
        Of a number.
    """

    name: str
    scope: str
    kind: Kind
    meaning: str
    default: Any = REQUIRED
    unit: str = ""

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is REQUIRED


SCOPES = {
    "top": "top of the config file",
    "time": "section `[TIME_LOOP]`",
    "component": "section of any component",
    "driver": "section of `ips_components.driver`, `NAME = Driver`",
    "simulation": "section of `ips_components.simulation`, `NAME = Simulation`",
    "analytics": "section of `ips_components.analytics`, `NAME = Analytics`",
    "array": "sub-section `[[ARRAYS]] [[[name]]]` of the analytics",
    "platform": "platform file",
}

_P = Parameter

PARAMETERS: tuple[Parameter, ...] = (
    # --- top of the config file
    _P(
        "SIM_NAME", "top", kinds.TEXT, "Name of the simulation, unique among those of one `ips.py`."
    ),
    _P("SIM_ROOT", "top", kinds.TEXT, "Directory of everything that the run writes; absolute."),
    _P("LOG_FILE", "top", kinds.TEXT, "Log of the components."),
    _P(
        "LOG_LEVEL",
        "top",
        kinds.LOG_LEVEL,
        "What goes to the log.",
        "WARNING",
    ),
    _P(
        "SIMULATION_MODE",
        "top",
        choice("NORMAL", "RESTART"),
        "Whether to start anew or from a checkpoint.",
    ),
    _P("RUN_ID", "top", kinds.TEXT, "Identifier for people and for the portal.", ""),
    _P("RUN_COMMENT", "top", kinds.TEXT, "What this run is about; shown in the report.", ""),
    _P("USE_PORTAL", "top", kinds.TRUTH, "Whether IPS writes its log of events.", True),
    _P("RESTART_ROOT", "top", kinds.TEXT, "`SIM_ROOT` of the run to restart from.", ""),
    _P("RESTART_TIME", "top", kinds.TEXT, "Time stamp of the checkpoint, or `LATEST`.", "LATEST"),
    # --- the time loop
    _P(
        "MODE",
        "time",
        choice("REGULAR", "EXPLICIT"),
        "Equal steps from START to FINISH, or the times in VALUES.",
        "REGULAR",
    ),
    _P("START", "time", kinds.NUMBER, "Time at which the simulation begins.", 0.0),
    _P("FINISH", "time", kinds.NUMBER, "Time at which it ends.", None),
    _P("NSTEP", "time", kinds.COUNT, "Number of steps that the simulation puts, from 0 on.", None),
    _P("VALUES", "time", kinds.NUMBERS, "Times of the steps, for MODE = EXPLICIT.", ()),
    # --- every component
    _P("CLASS", "component", kinds.TEXT, "First part of the component's full name."),
    _P("SUB_CLASS", "component", kinds.TEXT, "Second part of it; may be empty."),
    _P("NAME", "component", kinds.TEXT, "Name of the Python class."),
    _P("NPROC", "component", kinds.COUNT, "Processes of its task; 1 where there is no task."),
    _P("SCRIPT", "component", kinds.TEXT, "Python file of the class; empty when MODULE is given."),
    _P("MODULE", "component", kinds.TEXT, "Python module of the class.", ""),
    _P("INPUT_FILES", "component", kinds.LIST, "Files to copy from INPUT_DIR; may be empty."),
    _P("OUTPUT_FILES", "component", kinds.LIST, "Files to keep after each step; may be empty."),
    _P("INPUT_DIR", "component", kinds.TEXT, "Directory of INPUT_FILES.", ""),
    _P("BIN_PATH", "component", kinds.TEXT, "Directory of executables; may be empty.", ""),
    _P("BIN_DIR", "component", kinds.TEXT, "The same, in older configs.", ""),
    _P("IPS_ROOT", "component", kinds.TEXT, "Directory of an IPS installation.", ""),
    _P("DATA_FILES", "component", kinds.LIST, "Further files of the component.", ()),
    _P("STATE_FILES", "component", kinds.LIST, "Files of the plasma state.", ()),
    _P("RESTART_FILES", "component", kinds.LIST, "Files that a checkpoint must keep.", ()),
    _P(
        "LOG_LEVEL",
        "component",
        kinds.LOG_LEVEL,
        "What this component logs.",
        "",
    ),
    _P("PROCS_PER_NODE", "component", kinds.WHOLE, "Processes per node; 0: the platform's.", 0),
    _P("CPUS_PER_PROC", "component", kinds.WHOLE, "Cores per process; 0: as many as fit.", 0),
    _P(
        "NODE_ALLOCATION_MODE",
        "component",
        choice("SHARED", "EXCLUSIVE"),
        "Whether its tasks share nodes with others.",
        "",
    ),
    # --- the simulation
    _P("EXECUTABLE", "simulation", kinds.TEXT, "Program to run on NPROC processes."),
    _P(
        "ARGS",
        "simulation",
        kinds.WORDS,
        "Its arguments; `{NSTEP}`, `{FIRST}` (0, or the steps done at a restart), `{START}`, "
        "`{FINISH}`, `{NPROC}` and `{RUN_DIR}` are filled in.",
        (),
    ),
    _P("TASK_PPN", "simulation", kinds.WHOLE, "Processes per node; 0: the platform's.", 0),
    _P("TASK_CPP", "simulation", kinds.WHOLE, "Cores per process, with srun; 0: all.", 0),
    _P("TASK_GPP", "simulation", kinds.WHOLE, "GPUs per process, with srun.", 0),
    _P("OMP", "simulation", kinds.TRUTH, "Whether IPS sets OpenMP's variables, with srun.", False),
    _P("ENVIRONMENT", "simulation", kinds.PAIRS, "Environment variables of the task.", {}),
    _P("TASK_LOG", "simulation", kinds.TEXT, "File for what the task prints.", "simulation.log"),
    _P(
        "TIME_OUT",
        "simulation",
        kinds.SECONDS,
        "Longest run of the task; 0: as long as its steps keep coming.",
        0.0,
        "s",
    ),
    # --- the analytics
    _P(
        "ANALYSIS",
        "analytics",
        kinds.FUNCTIONS,
        "Function from external arrays to lazy results; several share the blocks of one run.",
    ),
    _P("ANALYSIS_ARGS", "analytics", kinds.ARGUMENTS, "Its keyword arguments.", {}),
    _P(
        "SOURCE",
        "analytics",
        kinds.TEXT,
        "A stored field (Zarr, NetCDF, HDF5 or npy) to analyse instead of a simulation, which is "
        "then not run.",
        "",
    ),
    _P("DASK_NODES", "analytics", kinds.COUNT, "Nodes for Dask.", 1),
    _P(
        "DASK_WORKERS_PER_NODE",
        "analytics",
        kinds.COUNT,
        "Dask workers on each of these nodes; each of them gets a part of every step.",
        1,
    ),
    _P(
        "DASK_PPW",
        "analytics",
        kinds.COUNT,
        "Threads of each Dask worker; the platform's PROCS_PER_NODE when it is not given.",
        None,
    ),
    _P(
        "DASK_WORKER_PER_GPU",
        "analytics",
        kinds.TRUTH,
        "One Dask worker for each GPU of the nodes, bound to it.",
        False,
    ),
    _P(
        "USE_SHIFTER",
        "analytics",
        kinds.TRUTH,
        "Run scheduler, workers and analysis in a container.",
        False,
    ),
    _P(
        "RESULTS",
        "analytics",
        kinds.TEXT,
        "Path of the results; a relative one is below the run's directory.",
        "",
    ),
    _P("RESULTS_FORMAT", "analytics", choice("zarr", "netcdf"), "Format of the results.", "zarr"),
    _P(
        "OVERWRITE",
        "analytics",
        kinds.TRUTH,
        "Whether RESULTS of an earlier run are replaced; else a path that exists is refused.",
        False,
    ),
    _P(
        "MEMORY_SHARE",
        "analytics",
        kinds.SHARE,
        "Part of a worker's memory for data that nobody has consumed yet; beyond it ranks wait.",
        0.3,
    ),
    _P(
        "REPLAY_STEPS",
        "analytics",
        kinds.WHOLE,
        "Steps that each rank keeps, to send again when a worker dies.",
        2,
        "steps",
    ),
    _P(
        "REPLAY_BYTES",
        "analytics",
        kinds.WHOLE,
        "Memory that each rank may take for that; where it is not enough, fewer steps are kept.",
        1 << 30,
        "bytes",
    ),
    _P(
        "ON_ANALYTICS_LOSS",
        "analytics",
        choice("continue", "abort"),
        "Whether the simulation goes on when the analytics is lost.",
        "continue",
    ),
    _P(
        "CONNECT_TIME_OUT",
        "analytics",
        kinds.TIME_OUT,
        "Longest wait for the Dask workers, and for the simulation's first word.",
        120.0,
        "s",
    ),
    _P(
        "CONTRACT_TIME_OUT",
        "analytics",
        kinds.TIME_OUT,
        "Longest wait of the simulation until the graph is submitted.",
        300.0,
        "s",
    ),
    _P(
        "STEP_TIME_OUT",
        "analytics",
        kinds.TIME_OUT,
        "Longest time without progress of any side.",
        600.0,
        "s",
    ),
    _P(
        "DRAIN_TIME_OUT",
        "analytics",
        kinds.TIME_OUT,
        "Longest wait for the other side after one side has ended.",
        120.0,
        "s",
    ),
    _P(
        "ANALYSIS_TIME_OUT",
        "analytics",
        kinds.TIME_OUT,
        "Longest time that the analysis may take after the simulation has ended.",
        3600.0,
        "s",
    ),
    _P(
        "SILENCE_TIME_OUT",
        "analytics",
        kinds.TIME_OUT,
        "Longest time without a sign of life of a rank, a worker or the scheduler; a third more "
        "for coming back.",
        30.0,
        "s",
    ),
    _P(
        "TEARDOWN_TIME_OUT",
        "analytics",
        kinds.TIME_OUT,
        "Longest time that worker plugins may take when their workers close, as long as they make "
        "progress.",
        3600.0,
        "s",
    ),
    _P("LANES", "analytics", choices("shm", "tcp"), "Ways that data may take.", ("shm", "tcp")),
    _P(
        "SECURITY",
        "analytics",
        choice("none", "tls"),
        "Whether Dask's traffic and blocks over TCP are encrypted; ranks in C or Fortran then need "
        "a Dask worker on their node.",
        "none",
    ),
    _P("LIVE_PAGE", "analytics", kinds.TRUTH, "Whether a page shows the run live.", False),
    _P(
        "TASK_LOG",
        "analytics",
        kinds.TRUTH,
        "Whether external_tasks.jsonl in the run directory gets every change of state of an "
        "external task.",
        True,
    ),
    _P("PROGRESS", "analytics", kinds.TRUTH, "Whether the terminal shows progress.", True),
    _P("FIGURE", "analytics", kinds.TRUTH, "Whether to draw a figure of the results.", True),
    _P(
        "WORKER_PLUGINS",
        "analytics",
        kinds.FUNCTION,
        "Function that gets the working directory and returns worker plugins, to ride beside ours.",
        None,
    ),
    # --- an array of the analytics
    _P("SHAPE", "array", kinds.EXTENTS, "Global shape of space, without time.", None),
    _P("DTYPE", "array", kinds.TEXT, "NumPy type.", "float64"),
    _P("DIMS", "array", kinds.LIST, "Names of the dimensions of space.", ()),
    _P("DECOMPOSITION", "array", kinds.EXTENTS, "Blocks along each dimension of space.", None),
    _P("HALO", "array", kinds.WIDTHS, "Ghost cells around each block, never sent.", 0, "cells"),
    _P("STEPS", "array", kinds.STEPS, "Steps at which it is put; [TIME_LOOP]'s by default.", None),
    _P("CHUNKS", "array", kinds.CHUNKS, "Chunks for the analysis.", None),
    _P(
        "POLICY",
        "array",
        choice("block", "drop"),
        "When a worker is full: make the ranks wait, or drop the step.",
        "block",
    ),
    _P(
        "SIMULATION",
        "array",
        kinds.TEXT,
        "Port of the simulation that puts it, where several feed the analysis and SHAPE is given.",
        "",
    ),
    _P("UNITS", "array", kinds.TEXT, "Physical unit.", ""),
    _P("LONG_NAME", "array", kinds.TEXT, "Name for figures.", ""),
    # --- the platform file
    _P("HOST", "platform", kinds.TEXT, "Name of the machine; may be empty."),
    _P(
        "MPIRUN",
        "platform",
        choice("mpiexec", "mpirun", "srun", "eval", "aprun", "numactl"),
        "Launcher: mpiexec for MPICH, mpirun for Open MPI, srun for Slurm, eval for none.",
    ),
    _P(
        "NODE_DETECTION",
        "platform",
        choice("manual", "slurm_env", "pbs_env", "checkjob", "qstat", "qstat2"),
        "Where IPS learns about the nodes.",
    ),
    _P(
        "CORES_PER_NODE",
        "platform",
        kinds.WHOLE,
        "Processes that fit on a node; 0: as many as the batch job says.",
    ),
    _P("SOCKETS_PER_NODE", "platform", kinds.COUNT, "Parts of a node."),
    _P(
        "NODE_ALLOCATION_MODE",
        "platform",
        choice("SHARED", "EXCLUSIVE"),
        "Whether two tasks may share a node.",
    ),
    _P("PROCS_PER_NODE", "platform", kinds.WHOLE, "Processes to start on a node.", 0),
    _P("NODES", "platform", kinds.WHOLE, "Number of nodes, for manual detection.", 0),
    _P("TOTAL_PROCS", "platform", kinds.WHOLE, "Number of processes, for manual detection.", 0),
    _P("GPUS_PER_NODE", "platform", kinds.WHOLE, "GPUs of a node.", 0),
    _P("MPIRUN_VERSION", "platform", kinds.TEXT, "Flavour of mpirun.", "OpenMPI-generic"),
    _P("USE_ACCURATE_NODES", "platform", kinds.TEXT, "Whether to name nodes to mpirun.", "ON"),
    _P(
        "OVERSUBSCRIBE",
        "platform",
        kinds.TRUTH,
        "Tell Open MPI that more processes than cores are meant.",
        False,
    ),
)


def of_scope(*scopes: str) -> dict[str, Parameter]:
    """Parameters of one or several scopes, by name; later scopes win."""
    found = {}
    for scope in scopes:
        found.update({each.name: each for each in PARAMETERS if each.scope == scope})
    return found


def reference() -> str:
    """Return the reference of all parameters as Markdown.

    Examples
    --------
    >>> print(reference().splitlines()[0])
    # Parameters
    """
    return "\n".join(_reference_lines()) + "\n"


def _reference_lines() -> Iterator[str]:
    yield "# Parameters"
    yield ""
    yield "Made from the table that also checks config files; `ips-components check` explains"
    yield "what is wrong with one."
    for scope, where in SCOPES.items():
        rows = of_scope(scope).values()
        if not rows:
            continue
        yield ""
        yield f"## {where[0].upper()}{where[1:]}"
        yield ""
        yield "| name | expected | default | meaning |"
        yield "|---|---|---|---|"
        for each in rows:
            unit = f" [{each.unit}]" if each.unit else ""
            cells = (f"`{each.name}`{unit}", each.kind.expects, _default(each), each.meaning)
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(parameter: Parameter) -> str:
    value = parameter.default
    if parameter.required:
        return "**required**"
    if value is None or value in ("", (), {}):
        return "none"
    return f"`{', '.join(value) if isinstance(value, tuple) else value}`"
