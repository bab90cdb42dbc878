"""Ports and components, ours and others'."""

from dataclasses import dataclass, replace
from pathlib import Path

from configobj import ConfigObj, Section

from ips_components.config._declare import declared
from ips_components.config._files import Reader
from ips_components.config._problems import Problems, did_you_mean
from ips_components.config._run import AnalyticsConfig, SimulationConfig
from ips_components.config._sections import ComponentSection
from ips_components.config._sources import changes_path, find_source, top_level_names
from ips_components.config._types import as_list, as_text

_KINDS = {
    ("ips_components.driver", "Driver"): "driver",
    ("ips_components.simulation", "Simulation"): "simulation",
    ("ips_components.analytics", "Analytics"): "analytics",
}
_OUR_MODULES = (*(module for module, _ in _KINDS), "ips_components.ensemble")
_OF_KIND: dict[str, tuple[type, ...]] = {
    "driver": (),
    "simulation": (SimulationConfig,),
    "analytics": (AnalyticsConfig,),
}


@dataclass(frozen=True, slots=True)
class Component:
    """One component of a config file.

    Attributes
    ----------
    port, section
        Its port and its section.
    kind
        Which of the coupled components it is, if any.
    values
        Its section's content.
    ours
        Whether its class comes from this package.
    """

    port: str
    section: str
    kind: str
    values: Section
    ours: bool = False


def is_ours(module: str) -> bool:
    """Whether a module belongs to this package."""
    return module.partition(".")[0] == "ips_components"


def has_ours(conf: ConfigObj) -> bool:
    """Whether a component of a config comes from this package."""
    # Values as they are written: one that cannot be interpolated is reported where it is read.
    modules = [dict.get(conf[name], "MODULE") for name in conf.sections]
    return any(isinstance(module, str) and is_ours(module) for module in modules)


def find_components(conf: ConfigObj, problems: Problems) -> list[Component]:
    """Return the components of all ports; note what IPS would not find."""
    add = problems.add
    ports = conf.get("PORTS")
    if not isinstance(ports, Section):
        add("", "PORTS", "the section is missing", "add [PORTS] with NAMES = DRIVER ...", True)
        return []
    raw = Reader("PORTS", ports, problems).raw("NAMES")
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
            remedy = f"remove [[{name}]], or add {name} to NAMES if it is to take part"
            if not as_text(dict.get(ports[name], "IMPLEMENTATION", "")):
                # In NAMES it would break create_sub_workflow, which looks for its component.
                remedy = f"it may stay, or remove [[{name}]]: it has no IMPLEMENTATION"
            add(
                "PORTS",
                name,
                "is defined, but not in NAMES: IPS does not make this component",
                meant or remedy,
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
    found = [_component(conf, name, ports, sections, problems) for name in names]
    return [component for component in found if component is not None]


def _component(
    conf: ConfigObj, port: str, ports: Section, sections: list[str], problems: Problems
) -> Component | None:
    add = problems.add
    if port not in sections:
        add(
            "PORTS",
            port,
            "is in NAMES, but has no sub-section",
            did_you_mean(port, sections) or f"add [[{port}]] with IMPLEMENTATION = {port}",
            True,
        )
        return None
    raw = Reader(f"PORTS][{port}", ports[port], problems).raw("IMPLEMENTATION")
    if raw is None:
        if "IMPLEMENTATION" not in ports[port]:
            where, remedy = f"PORTS][{port}", f"IMPLEMENTATION = {port}"
            add(where, "IMPLEMENTATION", "is missing", remedy, True)
        return None
    section = as_text(raw)
    if not section:
        return None  # IPS takes an empty one for "no such component"
    values = conf.get(section)
    if not isinstance(values, Section):
        known = [name for name in conf if isinstance(conf[name], Section)]
        add(
            f"PORTS][{port}",
            "IMPLEMENTATION",
            f"names section [{section}], which does not exist",
            did_you_mean(section, known) or f"add the section [{section}]",
            True,
        )
        return None
    module, name = (as_text(values.get(key) or "") for key in ("MODULE", "NAME"))
    return Component(port, section, _KINDS.get((module, name), ""), values, ours=is_ours(module))


class ComponentChecker:
    """Checks what the sections of all components have in common.

    Parameters
    ----------
    directory
        Of the config file.
    conf
        Its content.
    given
        Names that a component inherits: of the config's top and of the platform file.
    input_dir_exported
        Whether the top's INPUT_DIR comes from the environment.
    copied
        Whether IPS itself copies the INPUT_FILES of all components, and fails where there are
        none: of the simulations that it starts with.
    problems
        Where to note what is wrong.
    """

    def __init__(
        self,
        directory: Path,
        conf: ConfigObj,
        given: set[str],
        input_dir_exported: bool,
        copied: bool,
        problems: Problems,
    ) -> None:
        self.directory = directory
        self.conf = conf
        self.given = given
        self.input_dir_exported = input_dir_exported
        self.copied = copied
        self.problems = problems
        self._path_changes = False
        """Whether a component that IPS makes before the one at hand changes ``sys.path``."""
        self._kept: dict[tuple[str, str], str] = {}

    def check(self, component: Component) -> ComponentSection:
        """Check a component; return what it has in common with others, INPUT_DIR resolved."""
        section, values = component.section, component.values
        reader = Reader(section, values, self.problems)
        common = ComponentSection(**reader.read(ComponentSection))
        if component.kind:
            known = (ComponentSection, *_OF_KIND[component.kind])
            reader.unknown(name for each in known for name in declared(each))
        self._check_class(component, common)
        if not {"BIN_PATH", "BIN_DIR"} & {*values, *self.given}:
            self.problems.add(
                section, "BIN_PATH", "is missing; IPS needs it, be it empty", "add BIN_PATH =", True
            )
        common = self._check_input(component, common)
        self._check_restart_files(component, common)
        return common

    def _check_input(self, component: Component, common: ComponentSection) -> ComponentSection:
        given, whose = common.input_dir, ""
        if not given:
            given = as_text(self.conf.get("INPUT_DIR", ""))
            if given and self.input_dir_exported:
                whose = " (INPUT_DIR is exported in the environment)"
        directory = Path(self.directory, given).absolute()
        for pattern in common.input_files or ():
            wanted = directory / pattern
            if not any(wanted.parent.glob(wanted.name)):
                self.problems.add(
                    component.section,
                    "INPUT_FILES",
                    f"there is no file {pattern!r} in {directory}{whose}",
                    "correct the name, or give the directory as INPUT_DIR",
                    self.copied or None,
                )
        return replace(common, input_dir=str(directory))

    def _check_restart_files(self, component: Component, common: ComponentSection) -> None:
        """IPS keeps the files of a checkpoint by class and name of their component alone."""
        place = "_".join(each or "" for each in (common.class_, common.sub_class, common.name))
        for file in common.restart_files or ():
            other = self._kept.setdefault((place, file), component.section)
            if other != component.section:
                self.problems.add(
                    component.section,
                    "RESTART_FILES",
                    f"a checkpoint keeps {file} of [{other}] and of this section in one place, "
                    f"{place}: the one would overwrite the other",
                    f"another SUB_CLASS here, e.g. SUB_CLASS = {component.port.lower()}",
                )

    def _check_class(self, component: Component, common: ComponentSection) -> None:
        """Check that the module or script exists and has the class, without importing it."""
        section, add = component.section, self.problems.add
        name, module, script = common.name, common.module, common.script
        # Where a component that is made earlier changes the path, it is not known what is found.
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
                if meant := did_you_mean(module, _OUR_MODULES):
                    remedy = f"{meant} Else {remedy}"
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
