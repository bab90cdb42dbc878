"""Everything that can be known to be wrong before anything is launched, found in one go."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configobj import ConfigObj, Section

from ips_components.config._coupled import Component, CoupledChecker
from ips_components.config._files import (
    Problem,
    Problems,
    Reader,
    did_you_mean,
    read_file,
    with_environment,
)
from ips_components.config._parameters import of_scope
from ips_components.config._run import RunConfig, TimeLoop
from ips_components.config._sources import find_source, top_level_names
from ips_components.config._types import as_list, as_text

_OURS = {
    ("ips_components.driver", "Driver"): "driver",
    ("ips_components.simulation", "Simulation"): "simulation",
    ("ips_components.analytics", "Analytics"): "analytics",
}
_SHADOWS = ("PROCS_PER_NODE", "CORES_PER_NODE", "SOCKETS_PER_NODE", "GPUS_PER_NODE", "NODES")


def check_files(
    configs: list[Path], platform: Path, resources: bool = True
) -> tuple[list[Problem], list[RunConfig]]:
    """Check config files with their platform file, as they would be given to ``ips.py``.

    Parameters
    ----------
    configs
        Config files, one per simulation.
    platform
        The platform file.
    resources
        Whether to try if all tasks of a run fit on the platform at the same time.

    Returns
    -------
    problems : list of Problem
        Empty when nothing is wrong.
    runs : list of RunConfig
        One per config file that could be read.
    """
    about_platform = Problems(str(platform))
    platform_conf = read_file(platform, about_platform)
    machine: dict[str, Any] = {}
    if platform_conf is not None:
        with_environment(platform_conf)
        machine = Reader("", platform_conf, about_platform).all(of_scope("platform"))
    found = about_platform.found
    runs = []
    for config in configs:
        problems = Problems(str(config))
        conf = read_file(config, problems)
        if conf is not None:
            run = _Checker(config, conf, machine, problems).check()
            if resources and not problems.found and not about_platform.found:
                from ips_components.config._resources import check_resources

                check_resources(run, conf, machine, problems)
            runs.append(run)
        found += problems.found
    return found, runs


class _Checker:
    """Checks one config file and makes its RunConfig."""

    def __init__(
        self, path: Path, conf: ConfigObj, machine: Mapping[str, Any], problems: Problems
    ) -> None:
        self.path = path
        self.conf = conf
        self.machine = machine
        self.problems = problems
        self.own = with_environment(conf)

    def check(self) -> RunConfig:
        top = Reader("", self.conf, self.problems).all(of_scope("top"))
        self._check_top(top)
        components = self._components()
        times = self._times(components)
        coupled = CoupledChecker(self.conf, self.machine, self.problems)
        simulations, analytics = [], []
        kept: dict[tuple[str, str], str] = {}
        for component in components:
            common = self._check_component(component)
            self._check_restart_files(component, common, kept)
            if component.kind == "simulation":
                simulations.append(coupled.simulation(component, common))
            elif component.kind == "analytics":
                analytics.append(coupled.analytics(component, common))
        coupled.coupling(components, simulations, analytics)
        return RunConfig(
            file=str(self.path),
            sim_name=top["SIM_NAME"] or "",
            sim_root=top["SIM_ROOT"] or "",
            log_file=top["LOG_FILE"] or "",
            run_id=top["RUN_ID"],
            comment=top["RUN_COMMENT"],
            mode=top["SIMULATION_MODE"] or "NORMAL",
            restart_root=top["RESTART_ROOT"],
            restart_time=top["RESTART_TIME"],
            times=times,
            simulations=() if any(each.source for each in analytics) else tuple(simulations),
            analytics=tuple(analytics),
            oversubscribe=bool(self.machine.get("OVERSUBSCRIBE")),
        )

    def _check_restart_files(
        self, component: Component, common: Mapping[str, Any], kept: dict[tuple[str, str], str]
    ) -> None:
        """IPS keeps the files of a checkpoint by class and name of their component alone."""
        place = "_".join(common[each] or "" for each in ("CLASS", "SUB_CLASS", "NAME"))
        for file in common["RESTART_FILES"] or ():
            other = kept.setdefault((place, file), component.section)
            if other != component.section:
                self.problems.add(
                    component.section,
                    "RESTART_FILES",
                    f"a checkpoint keeps {file} of [{other}] and of this section in one place, "
                    f"{place}: the one would overwrite the other",
                    f"another SUB_CLASS here, e.g. SUB_CLASS = {component.port.lower()}",
                )

    # --- top level --------------------------------------------------------------------------

    def _check_top(self, top: Mapping[str, Any]) -> None:
        add = self.problems.add
        root = top["SIM_ROOT"]
        if root and not Path(root).is_absolute():
            add(
                "",
                "SIM_ROOT",
                f"expected an absolute path, got {root!r}; IPS changes directories, and would not "
                "find it again",
                f"for example SIM_ROOT = $PWD/{root}",
            )
        for name in ("SIM_NAME", "SIM_ROOT", "LOG_FILE"):
            if name in self.conf and top[name] == "":
                add("", name, "is empty")
        if top["SIMULATION_MODE"] == "RESTART" and not top["RESTART_ROOT"]:
            add(
                "",
                "RESTART_ROOT",
                "is missing, but SIMULATION_MODE = RESTART",
                "give the SIM_ROOT of the run whose checkpoint is to be used",
            )
        for name in _SHADOWS:
            exported = os.environ.get(name)
            if exported is not None and exported != str(self.machine.get(name, exported)):
                add(
                    "",
                    name,
                    f"is exported in the environment as {exported!r} and would be taken for the "
                    f"platform's {self.machine[name]}",
                    f"unset {name}",
                )

    def _times(self, components: list[Component]) -> TimeLoop:
        section = self.conf.get("TIME_LOOP")
        if not isinstance(section, Section):
            return TimeLoop()
        parameters = of_scope("time")
        reader = Reader("TIME_LOOP", section, self.problems)
        if any(component.kind for component in components):
            reader.unknown(parameters)
        values = reader.all(parameters)
        if values["MODE"] == "EXPLICIT":
            if not values["VALUES"]:
                self.problems.add(
                    "TIME_LOOP", "VALUES", "is missing, but MODE = EXPLICIT", "list the times"
                )
                return TimeLoop()
            times = values["VALUES"]
            return TimeLoop(times[0], times[-1], len(times), times)
        for name in ("START", "FINISH", "NSTEP"):
            if name not in section:
                self.problems.add(
                    "TIME_LOOP", name, "is missing; IPS needs START, FINISH and NSTEP"
                )
        return TimeLoop(values["START"], values["FINISH"], values["NSTEP"])

    # --- ports and components ---------------------------------------------------------------

    def _components(self) -> list[Component]:
        add = self.problems.add
        ports = self.conf.get("PORTS")
        if not isinstance(ports, Section):
            add("", "PORTS", "the section is missing", "add [PORTS] with NAMES = DRIVER ...")
            return []
        raw = Reader("PORTS", ports, self.problems).raw("NAMES")
        if raw is None:
            if "NAMES" not in ports:
                add(
                    "PORTS", "NAMES", "is missing", did_you_mean("NAMES", ports) or "list the ports"
                )
            return []
        if isinstance(raw, list):
            add(
                "PORTS",
                "NAMES",
                f"expected names separated by spaces, got commas: {as_text(raw)!r}",
                f"NAMES = {' '.join(as_list(raw))}",
            )
        names = as_list(raw)
        sections = [name for name in ports if isinstance(ports[name], Section)]
        for name in sections:
            if name not in names:
                meant = did_you_mean(name, [each for each in names if each not in sections])
                add("PORTS", name, "is defined, but not in NAMES", meant or f"add {name} to NAMES")
        if "DRIVER" not in names:
            add(
                "PORTS",
                "NAMES",
                "has no DRIVER, which is what IPS runs",
                "add the port DRIVER with MODULE = ips_components.driver and NAME = Driver",
            )
        found = [self._component(name, ports, sections) for name in names]
        return [component for component in found if component is not None]

    def _component(self, port: str, ports: Section, sections: list[str]) -> Component | None:
        add = self.problems.add
        if port not in sections:
            add(
                "PORTS",
                port,
                "is in NAMES, but has no sub-section",
                did_you_mean(port, sections) or f"add [[{port}]] with IMPLEMENTATION = {port}",
            )
            return None
        raw = Reader(f"PORTS][{port}", ports[port], self.problems).raw("IMPLEMENTATION")
        if raw is None:
            if "IMPLEMENTATION" not in ports[port]:
                add(f"PORTS][{port}", "IMPLEMENTATION", "is missing", f"IMPLEMENTATION = {port}")
            return None
        section = as_text(raw)
        if not section:
            return None  # IPS takes an empty one for "no such component"
        values = self.conf.get(section)
        if not isinstance(values, Section):
            known = [name for name in self.conf if isinstance(self.conf[name], Section)]
            add(
                f"PORTS][{port}",
                "IMPLEMENTATION",
                f"names section [{section}], which does not exist",
                did_you_mean(section, known) or f"add the section [{section}]",
            )
            return None
        module, name = (as_text(values.get(key) or "") for key in ("MODULE", "NAME"))
        return Component(port, section, _OURS.get((module, name), ""), values)

    def _check_component(self, component: Component) -> dict[str, Any]:
        section, values = component.section, component.values
        reader = Reader(section, values, self.problems)
        parameters = of_scope("component")
        common = reader.all(parameters)
        if component.kind:
            reader.unknown([*parameters, *of_scope(component.kind)])
        self._check_class(component, common)
        if "BIN_PATH" not in {*values, *self.own} and "BIN_DIR" not in {*values, *self.own}:
            self.problems.add(
                section, "BIN_PATH", "is missing; IPS needs it, be it empty", "add BIN_PATH ="
            )
        directory = common["INPUT_DIR"] or as_text(self.conf.get("INPUT_DIR", ""))
        common["INPUT_DIR"] = str(Path(self.path.parent, directory).absolute())
        for pattern in common["INPUT_FILES"] or ():
            wanted = Path(common["INPUT_DIR"], pattern)
            if not any(wanted.parent.glob(wanted.name)):
                self.problems.add(
                    section,
                    "INPUT_FILES",
                    f"there is no file {pattern!r} in {common['INPUT_DIR']}",
                    "correct the name, or give the directory as INPUT_DIR",
                )
        return common

    def _check_class(self, component: Component, common: Mapping[str, Any]) -> None:
        """Check that the module or script exists and has the class, without importing it."""
        section, add = component.section, self.problems.add
        name, module, script = common["NAME"], common["MODULE"], common["SCRIPT"]
        if script:
            source: Path | None = Path(script)
            if not Path(script).is_file():
                add(section, "SCRIPT", f"there is no file {script!r}")
                return
        elif module:
            source, problem = find_source(module)
            if problem:
                add(section, "MODULE", problem, "install it, or put its directory in PYTHONPATH")
                return
        else:
            add(
                section,
                "MODULE",
                "is missing, and SCRIPT is empty: IPS does not know where the class is",
                "add MODULE = package.module and leave SCRIPT empty",
            )
            return
        names = top_level_names(source)
        if names is not None and name and name not in names:
            add(
                section,
                "NAME",
                f"{script or module} has no class {name!r}",
                did_you_mean(name, names),
            )
