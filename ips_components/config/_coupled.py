"""The sections of our own components: their values, and whether they fit together."""

import importlib.util
import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from configobj import ConfigObj, Section

from ips_components.config._arrays import (
    check_array,
    check_decomposition,
    read_arrays,
    simulations_of,
)
from ips_components.config._components import Component
from ips_components.config._files import Reader
from ips_components.config._functions import (
    FunctionChecker,
    check_program_files,
    takes_argument,
)
from ips_components.config._problems import Problems
from ips_components.config._run import AnalyticsConfig, SimulationConfig, TimeLoop
from ips_components.config._sections import ComponentSection, LaunchSection, Platform
from ips_components.config._types import parse_bool
from ips_components.errors import ContractError
from ips_components.model.launch_steps import whole_axis

_NETCDF = ("netCDF4", "h5netcdf", "scipy")


class CoupledChecker:
    """Checks what only our components have.

    Parameters
    ----------
    conf
        The config.
    platform
        The platform file, None when it could not be read.
    times
        The time loop.
    input_dir_exported
        Whether the top's INPUT_DIR comes from the environment.
    problems
        Where to note what is wrong.
    """

    def __init__(
        self,
        conf: ConfigObj,
        platform: Platform | None,
        times: TimeLoop,
        input_dir_exported: bool,
        problems: Problems,
    ) -> None:
        self.conf = conf
        self.platform = platform
        self.times = times
        self.input_dir_exported = input_dir_exported
        self.problems = problems

    def simulation(self, component: Component, common: ComponentSection) -> SimulationConfig:
        """Check the section of a simulation."""
        reader = Reader(component.section, component.values, self.problems)
        config = SimulationConfig(
            port=component.port,
            section=component.section,
            nproc=common.nproc or 0,
            procs_per_node=common.procs_per_node,
            cpus_per_proc=common.cpus_per_proc,
            shared_nodes=self._shares_nodes(common),
            input_files=common.input_files or (),
            output_files=common.output_files or (),
            restart_files=common.restart_files,
            state_files=common.state_files or (),
            bin_path=common.bin_path or common.bin_dir,
            **reader.read(SimulationConfig),
        )
        self._check_renumber(component.section, config.renumber, config.steps_per_launch)
        if config.executable and shutil.which(config.program()) is None:
            self.problems.add(
                component.section,
                "EXECUTABLE",
                f"{config.executable!r} is not an executable file, neither in BIN_PATH "
                f"({config.bin_path or 'empty'}) nor in PATH",
                "give an absolute path, build it, or make it executable",
            )
        check_program_files(config, self.problems)
        return config

    def _check_renumber(self, section: str, renumber: bool, steps: int | None) -> None:
        if renumber and steps is None:
            self.problems.add(
                section,
                "RENUMBER",
                "is True, but nothing says how many steps each launch puts",
                "add STEPS_PER_LAUNCH",
            )

    def foreign(self, component: Component, common: ComponentSection) -> SimulationConfig:
        """Check the section of a component that is none of ours, and whose tasks put data."""
        values = Reader(component.section, component.values, self.problems).read(LaunchSection)
        self._check_renumber(component.section, values["renumber"], values["steps_per_launch"])
        return SimulationConfig(
            port=component.port,
            section=component.section,
            nproc=common.nproc or 0,
            executable="",
            **values,
        )

    def analytics(self, component: Component, common: ComponentSection) -> AnalyticsConfig:
        """Check the section of an analytics."""
        section = component.section
        values = Reader(section, component.values, self.problems).read(AnalyticsConfig)
        offered = values["analysis_args"]
        functions = FunctionChecker(
            section,
            common.input_dir,
            self.input_dir_exported and not component.values.get("INPUT_DIR"),
            bool(values["use_shifter"]),
            self.problems,
        )
        for name, arguments in (("ANALYSIS", offered), ("WORKER_PLUGINS", None)):
            functions.check(name, values[name.lower()] or "", arguments)
        gpus = self.platform.gpus_per_node if self.platform is not None else 0
        if values["source"]:
            values["source"] = str(Path(common.input_dir, values["source"]))
        self._check_what_is_there(section, values, gpus)
        config = AnalyticsConfig(
            port=component.port,
            section=section,
            state_files=common.state_files or (),
            input_dir=common.input_dir,
            input_files=common.input_files or (),
            output_files=common.output_files or (),
            gpus_per_node=gpus,
            shared_nodes=self._shares_nodes(common),
            arrays=read_arrays(component, self.problems),
            **values,
        )
        for array in config.arrays:
            where = f"{section}][ARRAYS][{array.name}"
            check_array(where, array, self.times.n_steps, config.n_receivers, self.problems)
        return config

    def _check_what_is_there(self, section: str, values: Mapping[str, Any], gpus: int) -> None:
        """Check that this machine has the commands, devices, files and packages of an analytics."""
        add = self.problems.add
        if values["use_shifter"] and shutil.which("shifter") is None:
            add(
                section,
                "USE_SHIFTER",
                "is True, but there is no command shifter in PATH",
                "load it, put a wrapper of that name in PATH, or say USE_SHIFTER = False",
            )
        if values["dask_worker_per_gpu"] and not gpus:
            add(
                section,
                "DASK_WORKER_PER_GPU",
                "is True, but the platform has no GPUS_PER_NODE",
                "add GPUS_PER_NODE to the platform file",
            )
        if values["source"] and not Path(values["source"]).exists():
            add(
                section,
                "SOURCE",
                f"there is no file or folder {values['source']!r}",
                "correct the path, or leave SOURCE out to analyse a running simulation",
            )
        if values["results_format"] == "netcdf" and not any(map(_is_installed, _NETCDF)):
            add(
                section,
                "RESULTS_FORMAT",
                f"netcdf needs one of the packages {', '.join(_NETCDF)}, and none is installed",
                "pip install netCDF4, or RESULTS_FORMAT = zarr",
            )
        self._check_results(section, Path(values["results"]), values["overwrite"])

    def _check_results(self, section: str, path: Path, overwrite: bool) -> None:
        """Check a path outside of the run's own directory, which is always new."""
        if not path.is_absolute():
            return
        if path.exists() and not overwrite:
            self.problems.add(
                section,
                "RESULTS",
                f"{str(path)!r} exists already",
                "remove it, give another path, or set OVERWRITE = True",
            )
        above = next(each for each in path.parents if each.exists())
        if not (above.is_dir() and os.access(above, os.W_OK)):
            self.problems.add(
                section,
                "RESULTS",
                f"nothing can be written to {str(above)!r}",
                "give a path in a folder that can be written from the Dask workers",
            )

    def _shares_nodes(self, common: ComponentSection) -> bool:
        top = str(self.conf.get("NODE_ALLOCATION_MODE", "")).upper()
        platform = self.platform.node_allocation_mode if self.platform is not None else "SHARED"
        for mode in (common.node_allocation_mode, top):
            if mode in ("SHARED", "EXCLUSIVE"):
                return mode == "SHARED"
        return platform == "SHARED"


def check_coupling(
    conf: ConfigObj,
    components: Sequence[Component],
    simulations: Sequence[SimulationConfig],
    analytics: Sequence[AnalyticsConfig],
    problems: Problems,
) -> None:
    """Check that the components of a coupled run fit together."""
    add = problems.add
    drivers = [each for each in components if each.kind == "driver"]
    if not analytics:
        for each in components:
            if _is_coupled(each):
                add(
                    each.section,
                    "COUPLED",
                    "is True, but no port has an analytics that would get its data",
                    "add a port with MODULE = ips_components.analytics and NAME = Analytics, or "
                    "leave COUPLED out",
                )
    for each in analytics:
        _check_left_out(each, simulations, problems)
    if not drivers:
        if keeps_checkpoints(conf):
            _check_checkpoints(simulations, analytics, problems)
        if len(simulations) > 1:
            for each in analytics:
                _check_described(each, simulations, problems)
        _check_arrays(simulations, analytics, problems)
        _check_steps_of_launches(simulations, analytics, problems)
        return
    section = drivers[0].section
    if drivers[0].port != "DRIVER":
        add("PORTS", drivers[0].port, "the driver must be the port DRIVER", "[[DRIVER]]")
    for kind, found in (("simulation", simulations), ("analytics", analytics)):
        if not found and not (kind == "simulation" and any(each.source for each in analytics)):
            class_name = kind.capitalize()
            add(
                section,
                "MODULE",
                f"the driver couples a simulation and an analytics, but no port has {kind}",
                f"add a port with MODULE = ips_components.{kind} and NAME = {class_name}",
            )
    loop = conf.get("TIME_LOOP")
    if not isinstance(loop, Section) or not {"NSTEP", "VALUES"} & {*loop}:
        _check_without_times(conf, simulations, problems)
    _check_arrays(simulations, analytics, problems)


def _check_arrays(
    simulations: Sequence[SimulationConfig],
    analytics: Sequence[AnalyticsConfig],
    problems: Problems,
) -> None:
    for each in analytics:
        for array in each.arrays:
            where = f"{each.section}][ARRAYS][{array.name}"
            owners = simulations_of(where, array, simulations, problems)
            check_decomposition(where, array, owners, problems)


def _check_steps_of_launches(
    simulations: Sequence[SimulationConfig],
    analytics: Sequence[AnalyticsConfig],
    problems: Problems,
) -> None:
    """Check that arrays have the steps of one launch, or of several, where these have a number."""
    of_all = ((each.section, array) for each in analytics for array in each.arrays)
    for (section, array), simulation in product(of_all, simulations):
        described = array.description(None)
        if described is None or array.simulation not in ("", simulation.port):
            continue
        try:
            whole_axis(described, {"many": True, "steps": simulation.steps_per_launch})
        except ContractError as error:
            where = f"{section}][ARRAYS][{array.name}"
            problems.add(where, "STEPS", f"{error} ([{simulation.section}])")


def _check_without_times(
    conf: ConfigObj, simulations: Sequence[SimulationConfig], problems: Problems
) -> None:
    """Refuse what needs the number of steps, which a simulation may know alone."""
    section = isinstance(conf.get("TIME_LOOP"), Section)
    words = ("{NSTEP}",) if section else ("{NSTEP}", "{START}", "{FINISH}")
    needs = [
        f"ARGS of [{each.section}] has {word}"
        for each in simulations
        for word in words
        if any(word in argument for argument in each.args)
    ]
    if simulations and "CHECKPOINT" in conf:
        needs.append("[CHECKPOINT] is given, and a checkpoint is named after the number of steps")
    if needs:
        problems.add(
            "TIME_LOOP",
            "NSTEP" if section else "",
            f"{'is' if section else 'the section is'} missing: how many steps does the simulation "
            f"have? ({needs[0]})",
            "[TIME_LOOP] with MODE = REGULAR, START = 0, FINISH = 1, NSTEP = 100",
        )


def _check_described(
    analytics: AnalyticsConfig, simulations: Sequence[SimulationConfig], problems: Problems
) -> None:
    """Check that the graph can be built before the first of several simulations is launched."""
    described = {array.simulation for array in analytics.arrays if array.shape is not None}
    for simulation in simulations:
        if simulation.port not in described:
            problems.add(
                analytics.section,
                "ARRAYS",
                f"no array of {simulation.port} is described: where several simulations are "
                "launched one after the other, the first one would wait for the graph, and the "
                "graph for the description of an array by a program that is not launched yet",
                f"[[ARRAYS]] with [[[name]]], SHAPE, DTYPE and SIMULATION = {simulation.port}",
            )


def _check_left_out(
    analytics: AnalyticsConfig, simulations: Sequence[SimulationConfig], problems: Problems
) -> None:
    """Check that the analysis can go on without each simulation that may be left out."""
    optional = {each.port: each for each in simulations if each.on_failure == "leave_out"}
    for each in optional.values() if len(simulations) < 2 else ():
        problems.add(
            each.section,
            "ON_FAILURE",
            "leave_out needs other simulations that feed the analysis, with which the run goes on",
            "fail, or several simulations",
        )
    for array in analytics.arrays if len(simulations) > 1 else ():
        integers = array.shape is not None and np.dtype(array.dtype).kind not in "fc"
        if array.simulation in optional and integers and array.shape[0] != -1:
            problems.add(
                f"{analytics.section}][ARRAYS][{array.name}",
                "DTYPE",
                f"{array.dtype} has no NaN to stand for what {array.simulation}, which may be left "
                "out (ON_FAILURE = leave_out), has not delivered",
                "a float, or ON_FAILURE = fail",
            )


def keeps_checkpoints(conf: ConfigObj) -> bool:
    """Whether a config asks IPS to keep checkpoints."""
    section = conf.get("CHECKPOINT")
    return isinstance(section, Section) and str(section.get("NUM_CHECKPOINT", "0")).strip() != "0"


def _check_checkpoints(
    simulations: Sequence[SimulationConfig],
    analytics: Sequence[AnalyticsConfig],
    problems: Problems,
) -> None:
    """Check that what is analysed can be kept in the middle of a time loop."""
    for each in (each for each in analytics if not each.source):
        if len(simulations) > 1:
            problems.add(
                each.section,
                "CHECKPOINT",
                f"{len(simulations)} simulations feed the analysis, whose results over all steps "
                "cannot be kept half way",
                "let one simulation feed it, through windows (run.rolling), or take no "
                "checkpoints: NUM_CHECKPOINT = 0 in [CHECKPOINT]",
            )
        for spec in filter(None, map(str.strip, each.analysis.split(","))):
            if takes_argument(spec, each.input_dir, "run") is False:
                problems.add(
                    each.section,
                    "ANALYSIS",
                    f"{spec} takes no argument 'run', so that it returns results over all steps, "
                    "which no checkpoint in the middle of the time loop can keep, but the config "
                    "has [CHECKPOINT]",
                    "use windows (def analysis(arrays, run), run.rolling), whose state is kept, "
                    "or take no checkpoints: NUM_CHECKPOINT = 0 in [CHECKPOINT]",
                )


def _is_coupled(component: Component) -> bool:
    try:
        return parse_bool(str(component.values.get("COUPLED", "False")))
    except ValueError:
        return False  # reported where it is read


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
