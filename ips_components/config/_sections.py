"""The sections of config and platform files that are not of our components alone."""

from dataclasses import dataclass

from ips_components.config import _types as types
from ips_components.config._declare import parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class TopLevel:
    """The top of a config file."""

    sim_name: str = parameter(
        types.TEXT, "Name of the simulation, unique among those of one `ips.py`."
    )
    sim_root: str = parameter(types.TEXT, "Directory of everything that the run writes; absolute.")
    log_file: str = parameter(types.TEXT, "Log of the components.")
    log_level: str = parameter(types.LOG_LEVEL, "What goes to the log.", "WARNING")
    simulation_mode: str = parameter(
        types.choice("NORMAL", "RESTART"), "Whether to start anew or from a checkpoint."
    )
    run_id: str = parameter(types.TEXT, "Identifier for people and for the portal.", "")
    run_comment: str = parameter(types.TEXT, "What this run is about; shown in the report.", "")
    use_portal: bool = parameter(types.BOOL, "Whether IPS writes its log of events.", True)
    restart_root: str = parameter(types.TEXT, "`SIM_ROOT` of the run to restart from.", "")
    restart_time: str = parameter(
        types.TEXT, "Time stamp of the checkpoint, or `LATEST`.", "LATEST"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSection:
    """The section ``[TIME_LOOP]``."""

    mode: str = parameter(
        types.choice("REGULAR", "EXPLICIT"),
        "Equal steps from START to FINISH, or the times in VALUES.",
        "REGULAR",
    )
    start: float = parameter(types.NUMBER, "Time at which the simulation begins.", 0.0)
    finish: float | None = parameter(types.NUMBER, "Time at which it ends.", None)
    nstep: int | None = parameter(
        types.POSITIVE_INT, "Number of steps that the simulation puts, from 0 on.", None
    )
    values: tuple[float, ...] = parameter(
        types.NUMBERS, "Times of the steps, for MODE = EXPLICIT.", ()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSection:
    """What the section of any component has."""

    class_: str = parameter(types.TEXT, "First part of the component's full name.")
    sub_class: str = parameter(types.TEXT, "Second part of it; may be empty.")
    name: str = parameter(types.TEXT, "Name of the Python class.")
    nproc: int = parameter(types.POSITIVE_INT, "Processes of its task; 1 where there is no task.")
    script: str = parameter(types.TEXT, "Python file of the class; empty when MODULE is given.")
    module: str = parameter(types.TEXT, "Python module of the class.", "")
    input_files: tuple[str, ...] = parameter(
        types.LIST, "Files to copy from INPUT_DIR; may be empty."
    )
    output_files: tuple[str, ...] = parameter(
        types.LIST, "Files to keep after each step; may be empty."
    )
    input_dir: str = parameter(types.TEXT, "Directory of INPUT_FILES.", "")
    bin_path: str = parameter(types.TEXT, "Directory of executables; may be empty.", "")
    bin_dir: str = parameter(types.TEXT, "The same, in older configs.", "")
    ips_root: str = parameter(types.TEXT, "Directory of an IPS installation.", "")
    data_files: tuple[str, ...] = parameter(types.LIST, "Further files of the component.", ())
    state_files: tuple[str, ...] = parameter(types.LIST, "Files of the plasma state.", ())
    restart_files: tuple[str, ...] = parameter(types.LIST, "Files that a checkpoint must keep.", ())
    coupled: bool = parameter(
        types.BOOL,
        "Whether tasks of a component that is none of ours put data into the run of the analytics.",
        False,
    )
    log_level: str = parameter(types.LOG_LEVEL, "What this component logs.", "")
    procs_per_node: int = parameter(
        types.NON_NEGATIVE_INT, "Processes per node; 0: the platform's.", 0
    )
    cpus_per_proc: int = parameter(
        types.NON_NEGATIVE_INT, "Cores per process; 0: as many as fit.", 0
    )
    node_allocation_mode: str = parameter(
        types.choice("SHARED", "EXCLUSIVE"), "Whether its tasks share nodes with others.", ""
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSection:
    """What a section with COUPLED = True says about its launches."""

    steps_per_launch: int | None = parameter(types.POSITIVE_INT, "Steps that each task puts.", None)
    renumber: bool = parameter(
        types.BOOL, "Whether the program counts its steps from 0 at every launch.", False
    )
    on_launch_failure: str = parameter(
        types.choice("fail", "retry"),
        "Whether a task that fails ends the run, or the component launches it again.",
        "fail",
    )
    retries: int = parameter(
        types.POSITIVE_INT, "How often it does so, with ON_LAUNCH_FAILURE = retry.", 1
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """The platform file."""

    host: str = parameter(types.TEXT, "Name of the machine; may be empty.")
    mpirun: str = parameter(
        types.choice("mpiexec", "mpirun", "srun", "eval", "aprun", "numactl"),
        "Launcher: mpiexec for MPICH, mpirun for Open MPI, srun for Slurm, eval for none.",
    )
    node_detection: str = parameter(
        types.choice("manual", "slurm_env", "pbs_env", "checkjob", "qstat", "qstat2"),
        "Where IPS learns about the nodes.",
    )
    cores_per_node: int = parameter(
        types.NON_NEGATIVE_INT, "Processes that fit on a node; 0: as many as the batch job says."
    )
    sockets_per_node: int = parameter(types.POSITIVE_INT, "Parts of a node.")
    node_allocation_mode: str = parameter(
        types.choice("SHARED", "EXCLUSIVE"), "Whether two tasks may share a node."
    )
    procs_per_node: int = parameter(types.NON_NEGATIVE_INT, "Processes to start on a node.", 0)
    nodes: int = parameter(types.NON_NEGATIVE_INT, "Number of nodes, for manual detection.", 0)
    total_procs: int = parameter(
        types.NON_NEGATIVE_INT, "Number of processes, for manual detection.", 0
    )
    gpus_per_node: int = parameter(types.NON_NEGATIVE_INT, "GPUs of a node.", 0)
    mpirun_version: str = parameter(types.TEXT, "Flavour of mpirun.", "OpenMPI-generic")
    use_accurate_nodes: str = parameter(types.TEXT, "Whether to name nodes to mpirun.", "ON")
    oversubscribe: bool = parameter(
        types.BOOL, "Allow Open MPI to start more processes than there are cores.", False
    )
