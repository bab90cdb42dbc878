"""Everything that can be known to be wrong before anything is launched, found in one go."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configobj import ConfigObj, Section

from ips_components.config._components import Component, ComponentChecker, find_components, has_ours
from ips_components.config._coupled import CoupledChecker, check_coupling, keeps_checkpoints
from ips_components.config._declare import declared
from ips_components.config._files import Reader, read_file, with_environment
from ips_components.config._platform import Machine, check_launcher, read_platform
from ips_components.config._problems import Findings, Problems, findings
from ips_components.config._run import RunConfig, TimeLoop
from ips_components.config._sections import TimeSection, TopLevel

_SHADOWS = ("PROCS_PER_NODE", "CORES_PER_NODE", "SOCKETS_PER_NODE", "GPUS_PER_NODE", "NODES")


def check_files(configs: Sequence[Path], platform: Path) -> Findings:
    """Check config files with their platform file, as they would be given to ``ips.py``.

    What belongs to components of this package is checked strictly. Of the rest only what stock IPS
    would fail or hang on is an error; what else is odd about it is a warning.

    Parameters
    ----------
    configs
        Config files, one per simulation.
    platform
        The platform file.

    Returns
    -------
    Findings
        Without errors when the files can be run; with one run per config file that could be read.
    """
    read = []
    for config in configs:
        problems = Problems(str(config))
        read.append((config, read_file(config, problems), problems))
    strict = any(conf is not None and has_ours(conf) for _, conf, _ in read)
    about_platform = Problems(str(platform), strict=strict)
    machine = read_platform(platform, about_platform, _SHADOWS)
    if strict:
        check_launcher(machine.platform, about_platform)
    found, runs = list(about_platform.found), []
    for config, conf, problems in read:
        if conf is not None:
            source = Source(config, conf, with_environment(conf))
            runs.append(Checker(source, machine, problems).check())
        found += problems.found
    return findings(found, runs, machine.platform)


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
    machine = read_platform(platform, about_platform, _SHADOWS)
    run = Checker(Source(path, conf, own, created=True), machine, problems).check()
    return findings([*about_platform.found, *problems.found], [run], machine.platform)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a config comes from.

    Attributes
    ----------
    path
        The config file.
    conf
        Its content, with the environment in it.
    own
        Names at its top that the file itself has.
    created
        Whether a simulation that runs creates it, rather than ``ips.py`` at its start.
    """

    path: Path
    conf: ConfigObj
    own: frozenset[str]
    created: bool = False


class Checker:
    """Checks one config and makes its `RunConfig`."""

    def __init__(self, source: Source, machine: Machine, problems: Problems) -> None:
        self.source = source
        self.conf = source.conf
        self.machine = machine
        self.problems = problems
        self.problems.strict = has_ours(source.conf)

    def check(self) -> RunConfig:
        """Check everything, and return the config with what could be read."""
        exported = frozenset(self.conf) - self.source.own
        values = Reader("", self.conf, self.problems, exported).read(TopLevel)
        top = TopLevel(**values)
        self._check_top(top)
        self._check_pwd()
        components = find_components(self.conf, self.problems)
        times = self._times(components)
        checker = ComponentChecker(
            self.source.path.parent,
            self.conf,
            {*self.conf, *self.machine.names},
            "INPUT_DIR" in exported,
            not self.source.created,
            self.problems,
        )
        coupled = CoupledChecker(
            self.conf, self.machine.platform, times, "INPUT_DIR" in exported, self.problems
        )
        simulations, analytics, foreign = [], [], []
        for component in components:
            with self.problems.judged(component.ours):
                common = checker.check(component)
                if component.kind == "simulation":
                    simulations.append(coupled.simulation(component, common))
                elif component.kind == "analytics":
                    analytics.append(coupled.analytics(component, common))
            if common.coupled and not component.kind:
                with self.problems.judged(True):  # what these parameters say is for us
                    foreign.append(coupled.foreign(component, common))
        check_coupling(self.conf, components, [*simulations, *foreign], analytics, self.problems)
        return RunConfig(
            file=str(self.source.path),
            sim_name=top.sim_name or "",
            sim_root=top.sim_root or "",
            log_file=top.log_file or "",
            run_id=top.run_id,
            comment=top.run_comment,
            mode=top.simulation_mode or "NORMAL",
            restart_root=top.restart_root,
            restart_time=top.restart_time,
            times=times,
            simulations=() if any(each.source for each in analytics) else tuple(simulations),
            analytics=tuple(analytics),
            oversubscribe=bool(self.machine.platform and self.machine.platform.oversubscribe),
            coupled=() if any(each.source for each in analytics) else tuple(foreign),
            attended=any(component.kind == "driver" for component in components),
            checkpoints=keeps_checkpoints(self.conf),
        )

    def _check_top(self, top: TopLevel) -> None:
        add = self.problems.add
        root = top.sim_root
        if root and not Path(root).is_absolute():
            add(
                "",
                "SIM_ROOT",
                f"expected an absolute path, got {root!r}; IPS changes directories, and would not "
                "find it again",
                f"for example SIM_ROOT = $PWD/{root}",
            )
        elif root:
            self._check_writable(root)
        for name, value in (
            ("SIM_NAME", top.sim_name),
            ("SIM_ROOT", top.sim_root),
            ("LOG_FILE", top.log_file),
        ):
            if name in self.conf and value == "":
                add("", name, "is empty")
        if top.simulation_mode == "RESTART" and not top.restart_root:
            add(
                "",
                "RESTART_ROOT",
                "is missing, but SIMULATION_MODE = RESTART",
                "give the SIM_ROOT of the run whose checkpoint is to be used",
            )
        if top.simulation_mode == "RESTART" and "RESTART_TIME" not in self.conf:
            add(
                "",
                "RESTART_TIME",
                "is missing, but SIMULATION_MODE = RESTART",
                "RESTART_TIME = LATEST, or the time stamp of a checkpoint",
                fatal=True,
            )
        for name in _SHADOWS:
            exported, own = os.environ.get(name), name in self.source.own
            known = getattr(self.machine.platform, name.lower(), None)
            if own or None in (exported, known) or exported == str(known):
                continue
            add(
                "",
                name,
                f"is exported in the environment as {exported!r} and would be taken for the "
                f"platform's {known}",
                f"unset {name}",
            )

    def _check_writable(self, root: str) -> None:
        """Find the directory in which SIM_ROOT will be made, and whether that can be done."""
        place = Path(root)
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            what = "cannot be written to" if place.is_dir() else "is no directory"
            self.problems.add(
                "",
                "SIM_ROOT",
                f"cannot make or write to {root!r}: {place} {what}",
                "choose a directory of yours",
                fatal=True,
            )

    def _check_pwd(self) -> None:
        """Compare $PWD, which the shell sets and other programs leave as it was."""
        named = os.environ.get("PWD")
        if self.source.created or named is None or not re.search(r"\$\{?PWD\b", self._text()):
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
            return self.source.path.read_text()
        except (OSError, UnicodeDecodeError):
            return ""

    def _times(self, components: Sequence[Component]) -> TimeLoop:
        section = self.conf.get("TIME_LOOP")
        if not isinstance(section, Section):
            return TimeLoop()
        reader = Reader("TIME_LOOP", section, self.problems)
        if any(component.kind for component in components):
            reader.unknown(declared(TimeSection))
        values = TimeSection(**reader.read(TimeSection))
        if values.mode == "EXPLICIT":
            times = values.values
            if not times:
                self.problems.add(
                    "TIME_LOOP", "VALUES", "is missing, but MODE = EXPLICIT", "list the times"
                )
                return TimeLoop()
            return TimeLoop(times[0], times[-1], len(times), times)
        # Our driver puts no question to the time loop: how many steps there are may be unknown.
        ours = any(component.kind == "driver" for component in components)
        for name in ("START", "FINISH") if ours else ("START", "FINISH", "NSTEP"):
            if name not in section:
                self.problems.add(
                    "TIME_LOOP", name, "is missing; IPS needs START, FINISH and NSTEP"
                )
        return TimeLoop(values.start, values.finish, values.nstep)
