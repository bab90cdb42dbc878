"""Everything that can be known to be wrong before anything is launched, found in one go."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configobj import ConfigObj, Section

from ips_components.config._coupled import Component, CoupledChecker, is_ours
from ips_components.config._files import (
    Findings,
    Problem,
    Problems,
    Reader,
    did_you_mean,
    read_file,
    with_environment,
)
from ips_components.config._parameters import of_scope
from ips_components.config._run import RunConfig, TimeLoop
from ips_components.config._sources import changes_path, find_source, top_level_names
from ips_components.config._types import as_list, as_text

_OURS = {
    ("ips_components.driver", "Driver"): "driver",
    ("ips_components.simulation", "Simulation"): "simulation",
    ("ips_components.analytics", "Analytics"): "analytics",
}
_SHADOWS = ("PROCS_PER_NODE", "CORES_PER_NODE", "SOCKETS_PER_NODE", "GPUS_PER_NODE", "NODES")


def check_files(configs: Sequence[Path], platform: Path, resources: bool = True) -> Findings:
    """Check config files with their platform file, as they would be given to ``ips.py``.

    What belongs to components of this package is checked strictly. Of the rest only what stock IPS
    would fail or hang on is an error; what else is odd about it is a warning.

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
    Findings
        Without errors when the files can be run; with one run per config file that could be read.
    """
    read = []
    for config in configs:
        problems = Problems(str(config))
        conf = read_file(config, problems)
        read.append((config, conf, problems))
    strict = any(conf is not None and has_ours(conf) for _, conf, _ in read)
    about_platform = Problems(str(platform), strict=strict)
    machine = read_platform(platform, about_platform)
    found = list(about_platform.found)
    runs = []
    for config, conf, problems in read:
        if conf is not None:
            own = with_environment(conf)
            run = Checker(config, conf, own, machine, problems).check()
            if resources and not problems.errors and not about_platform.errors:
                from ips_components.config._resources import check_resources

                check_resources(run, conf, machine.values, problems)
            runs.append(run)
        found += problems.found
    return findings(found, runs)


def check_simulation(path: Path, conf: ConfigObj, own: frozenset[str], platform: Path) -> Findings:
    """Check the config of a simulation as IPS has it in memory.

    Parameters
    ----------
    path
        The file that it comes from.
    conf
        Its content, with the environment, and what a parent or an override has changed.
    own
        Names at the top of the file itself.
    platform
        The platform file.
    """
    problems = Problems(str(path))
    about_platform = Problems(str(platform), strict=has_ours(conf))
    machine = read_platform(platform, about_platform)
    run = Checker(path, conf, own, machine, problems, copied=False).check()
    return findings([*about_platform.found, *problems.found], [run])


def findings(found: Sequence[Problem], runs: Sequence[RunConfig]) -> Findings:
    """Sort problems by what follows from them."""
    return Findings(
        errors=tuple(each for each in found if each.fatal),
        warnings=tuple(each for each in found if not each.fatal),
        runs=tuple(runs),
    )


@dataclass(frozen=True, slots=True)
class Machine:
    """A platform file as it was read.

    Attributes
    ----------
    values
        Typed values of the parameters that are known.
    names
        Every name in the file.
    """

    values: Mapping[str, Any]
    names: frozenset[str]


def read_platform(path: Path, problems: Problems) -> Machine:
    """Read the platform file."""
    conf = read_file(path, problems)
    if conf is None:
        return Machine({}, frozenset())
    own = with_environment(conf)
    values = Reader("", conf, problems, frozenset(conf) - own).all(of_scope("platform"))
    for name in _SHADOWS:
        if name in conf and name not in own and values.get(name):
            problems.add(
                "",
                name,
                f"is not in this file; the environment variable {name} = {conf[name]} is taken "
                "for it",
                f"unset {name}, or give {name} in this file",
                fatal=False,
            )
    return Machine(values, own)


def has_ours(conf: ConfigObj) -> bool:
    """Whether a component of a config comes from this package."""
    # Values as they are written: one that cannot be interpolated is reported where it is read.
    modules = [dict.get(conf[name], "MODULE") for name in conf.sections]
    return any(isinstance(module, str) and is_ours(module) for module in modules)


class Checker:
    """Checks one config and makes its RunConfig.

    Parameters
    ----------
    path
        The config file.
    conf
        Its content, with the environment in it.
    own
        Names at its top that the file itself has.
    machine
        The platform.
    problems
        Where to note what is wrong.
    copied
        Whether IPS itself copies the INPUT_FILES of all components, and fails where there are
        none: of the simulations that it starts with.
    """

    def __init__(
        self,
        path: Path,
        conf: ConfigObj,
        own: frozenset[str],
        machine: Machine,
        problems: Problems,
        copied: bool = True,
    ) -> None:
        self.path = path
        self.copied = copied
        self.conf = conf
        self.own = own
        self.machine = machine.values
        self.inherited = machine.names
        self.problems = problems
        self.problems.strict = has_ours(conf)
        self._path_changes = False
        """Whether a component that IPS makes before the one at hand changes ``sys.path``."""

    def check(self) -> RunConfig:
        """Check everything, and return the config with what could be read."""
        exported = frozenset(self.conf) - self.own
        top = Reader("", self.conf, self.problems, exported).all(of_scope("top"))
        self._check_top(top)
        self._check_pwd()
        components = self._components()
        times = self._times(components)
        coupled = CoupledChecker(self.conf, self.machine, self.problems)
        simulations, analytics = [], []
        kept: dict[tuple[str, str], str] = {}
        for component in components:
            with self.problems.judged(component.ours):
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
            attended=any(component.kind == "driver" for component in components),
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
        if top["SIMULATION_MODE"] == "RESTART" and "RESTART_TIME" not in self.conf:
            add(
                "",
                "RESTART_TIME",
                "is missing, but SIMULATION_MODE = RESTART",
                "RESTART_TIME = LATEST, or the time stamp of a checkpoint",
                fatal=True,
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

    def _check_pwd(self) -> None:
        """Compare $PWD, which the shell sets and other programs leave as it was."""
        named = os.environ.get("PWD")
        if not self.copied or named is None or not re.search(r"\$\{?PWD\b", self._text()):
            return
        here = Path.cwd()
        if not Path(named).exists() or not here.samefile(named):
            self.problems.add(
                "",
                "PWD",
                f"the file uses $PWD, which is {named} in the environment, but the current "
                f"directory is {here}",
                "export PWD anew: cd there in a shell, or set it together with the directory",
            )

    def _text(self) -> str:
        try:
            return self.path.read_text()
        except (OSError, UnicodeDecodeError):
            return ""

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
            add("", "PORTS", "the section is missing", "add [PORTS] with NAMES = DRIVER ...", True)
            return []
        raw = Reader("PORTS", ports, self.problems).raw("NAMES")
        if raw is None:
            if "NAMES" not in ports:
                meant = did_you_mean("NAMES", ports)
                add("PORTS", "NAMES", "is missing", meant or "list the ports", True)
            return []
        if isinstance(raw, list):
            add(
                "PORTS",
                "NAMES",
                f"expected names separated by spaces, got commas: {as_text(raw)!r}",
                f"NAMES = {' '.join(as_list(raw))}",
                True,
            )
        names = as_list(raw)
        sections = [name for name in ports if isinstance(ports[name], Section)]
        for name in sections:
            if name not in names:
                meant = did_you_mean(name, [each for each in names if each not in sections])
                add(
                    "PORTS",
                    name,
                    "is defined, but not in NAMES: IPS does not make this component",
                    meant or f"remove [[{name}]], or add {name} to NAMES if it is to take part",
                    fatal=False,
                )
        if "DRIVER" not in names:
            add(
                "PORTS",
                "NAMES",
                "has no DRIVER, which is what IPS runs",
                "add the port DRIVER with MODULE = ips_components.driver and NAME = Driver",
                True,
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
                True,
            )
            return None
        raw = Reader(f"PORTS][{port}", ports[port], self.problems).raw("IMPLEMENTATION")
        if raw is None:
            if "IMPLEMENTATION" not in ports[port]:
                where, remedy = f"PORTS][{port}", f"IMPLEMENTATION = {port}"
                add(where, "IMPLEMENTATION", "is missing", remedy, True)
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
                True,
            )
            return None
        module, name = (as_text(values.get(key) or "") for key in ("MODULE", "NAME"))
        return Component(port, section, _OURS.get((module, name), ""), values, ours=is_ours(module))

    def _check_component(self, component: Component) -> dict[str, Any]:
        section, values = component.section, component.values
        reader = Reader(section, values, self.problems)
        parameters = of_scope("component")
        common = reader.all(parameters)
        if component.kind:
            reader.unknown([*parameters, *of_scope(component.kind)])
        self._check_class(component, common)
        given = {*values, *self.conf, *self.inherited}
        if "BIN_PATH" not in given and "BIN_DIR" not in given:
            self.problems.add(
                section, "BIN_PATH", "is missing; IPS needs it, be it empty", "add BIN_PATH =", True
            )
        directory, whose = common["INPUT_DIR"], ""
        if not directory:
            directory = as_text(self.conf.get("INPUT_DIR", ""))
            if directory and "INPUT_DIR" not in self.own:
                whose = " (INPUT_DIR is exported in the environment)"
        common["INPUT_DIR"] = str(Path(self.path.parent, directory).absolute())
        for pattern in common["INPUT_FILES"] or ():
            wanted = Path(common["INPUT_DIR"], pattern)
            if not any(wanted.parent.glob(wanted.name)):
                self.problems.add(
                    section,
                    "INPUT_FILES",
                    f"there is no file {pattern!r} in {common['INPUT_DIR']}{whose}",
                    "correct the name, or give the directory as INPUT_DIR",
                    self.copied or None,
                )
        return common

    def _check_class(self, component: Component, common: Mapping[str, Any]) -> None:
        """Check that the module or script exists and has the class, without importing it."""
        section, add = component.section, self.problems.add
        name, module, script = common["NAME"], common["MODULE"], common["SCRIPT"]
        # Where a component that is made earlier changes the path, nobody knows what is found.
        fatal = component.ours or not self._path_changes
        if script:
            source: Path | None = Path(script)
            if not Path(script).is_file():
                add(section, "SCRIPT", f"there is no file {script!r}", fatal=True)
                return
        elif module:
            source, problem = find_source(module)
            if problem:
                remedy = "install it, or put its directory in PYTHONPATH"
                add(section, "MODULE", problem, remedy, fatal)
                return
        else:
            add(
                section,
                "MODULE",
                "is missing, and SCRIPT is empty: IPS does not know where the class is",
                "add MODULE = package.module and leave SCRIPT empty",
                fatal=True,
            )
            return
        names = top_level_names(source)
        if names is not None and name and name not in names:
            remedy = did_you_mean(name, names)
            add(section, "NAME", f"{script or module} has no class {name!r}", remedy, True)
        if not component.ours and source is not None:
            self._path_changes = self._path_changes or changes_path(source)
