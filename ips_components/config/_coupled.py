"""The sections of our own components: their values, and whether they fit together."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configobj import ConfigObj, Section

from ips_components.config._files import Problems, Reader, did_you_mean
from ips_components.config._parameters import of_scope
from ips_components.config._run import AnalyticsConfig, ArrayConfig, SimulationConfig
from ips_components.config._sources import find_source, top_level_names


@dataclass(slots=True)
class Component:
    """One component of a config file: its port, its section, and which of ours it is, if any."""

    port: str
    section: str
    kind: str
    values: Section
    ours: bool = False


def is_ours(module: str) -> bool:
    """Whether a module belongs to this package."""
    return module.partition(".")[0] == "ips_components"


class CoupledChecker:
    """Checks what only our components have."""

    def __init__(self, conf: ConfigObj, machine: Mapping[str, Any], problems: Problems) -> None:
        self.conf = conf
        self.machine = machine
        self.problems = problems

    def simulation(self, component: Component, common: dict[str, Any]) -> SimulationConfig:
        reader = Reader(component.section, component.values, self.problems)
        values = reader.all(of_scope("simulation"))
        config = SimulationConfig(
            port=component.port,
            section=component.section,
            nproc=common["NPROC"] or 0,
            input_files=common["INPUT_FILES"] or (),
            output_files=common["OUTPUT_FILES"] or (),
            restart_files=common["RESTART_FILES"],
            state_files=common["STATE_FILES"] or (),
            bin_path=common["BIN_PATH"] or common["BIN_DIR"],
            **{name.lower(): value for name, value in values.items()},
        )
        if config.executable and shutil.which(config.program()) is None:
            self.problems.add(
                component.section,
                "EXECUTABLE",
                f"{config.executable!r} is not an executable file, neither in BIN_PATH "
                f"({config.bin_path or 'empty'}) nor in PATH",
                "give an absolute path, build it, or make it executable",
            )
        return config

    def analytics(self, component: Component, common: dict[str, Any]) -> AnalyticsConfig:
        reader = Reader(component.section, component.values, self.problems)
        values = reader.all(of_scope("analytics"))
        for name in ("ANALYSIS", "WORKER_PLUGINS"):
            for each in (values[name] or "").split(","):
                self._check_function(component.section, name, each.strip(), common["INPUT_DIR"])
        if values["USE_SHIFTER"] and shutil.which("shifter") is None:
            self.problems.add(
                component.section,
                "USE_SHIFTER",
                "is True, but there is no command shifter in PATH",
                "load it, put a wrapper of that name in PATH, or say USE_SHIFTER = False",
            )
        gpus = int(self.machine.get("GPUS_PER_NODE") or 0)
        if values["DASK_WORKER_PER_GPU"] and not gpus:
            self.problems.add(
                component.section,
                "DASK_WORKER_PER_GPU",
                "is True, but the platform has no GPUS_PER_NODE",
                "add GPUS_PER_NODE to the platform file",
            )
        if values["SOURCE"]:
            values["SOURCE"] = str(Path(common["INPUT_DIR"], values["SOURCE"]))
            if not Path(values["SOURCE"]).exists():
                self.problems.add(
                    component.section,
                    "SOURCE",
                    f"there is no file or folder {values['SOURCE']!r}",
                    "correct the path, or leave SOURCE out to analyse a running simulation",
                )
        return AnalyticsConfig(
            port=component.port,
            section=component.section,
            arrays=self._arrays(component),
            input_dir=common["INPUT_DIR"],
            input_files=common["INPUT_FILES"] or (),
            output_files=common["OUTPUT_FILES"] or (),
            gpus_per_node=gpus,
            **{name.lower(): value for name, value in values.items()},
        )

    def _check_function(self, section: str, name: str, spec: str | None, beside: str) -> None:
        if not spec:
            return
        module, _, function = spec.partition(":")
        source, problem = find_source(module, beside)
        if problem:
            self.problems.add(
                section,
                name,
                problem,
                f"put it in PYTHONPATH or in INPUT_DIR ({beside}); the Dask workers import it",
            )
            return
        names = top_level_names(source)
        if names is not None and function not in names:
            self.problems.add(
                section,
                name,
                f"{module} has no function {function!r}",
                did_you_mean(function, names),
            )

    def _arrays(self, component: Component) -> tuple[ArrayConfig, ...]:
        add = self.problems.add
        sections = component.values.get("ARRAYS", {})
        for name, value in component.values.items():
            if isinstance(value, Section) and name != "ARRAYS":
                add(
                    component.section,
                    name,
                    "is a sub-section that nobody reads",
                    did_you_mean(name, ["ARRAYS"]) or "arrays are described below [[ARRAYS]]",
                )
        if not isinstance(sections, Mapping):
            add(component.section, "ARRAYS", "expected a sub-section [[ARRAYS]], got a value")
            return ()
        parameters = of_scope("array")
        arrays = []
        for name, values in sections.items():
            where = f"{component.section}][ARRAYS][{name}"
            if not isinstance(values, Section):
                add(
                    f"{component.section}][ARRAYS",
                    name,
                    "expected one sub-section for each array, got a value",
                    f"[[[{name}]]]",
                )
                continue
            reader = Reader(where, values, self.problems)
            reader.unknown(parameters)
            array = ArrayConfig(
                name, **{key.lower(): value for key, value in reader.all(parameters).items()}
            )
            self._check_array(where, array)
            arrays.append(array)
        return tuple(arrays)

    def _check_array(self, where: str, array: ArrayConfig) -> None:
        import numpy as np

        add = self.problems.add
        try:
            np.dtype(array.dtype)
        except TypeError:
            add(where, "DTYPE", f"expected a NumPy type, got {array.dtype!r}", "DTYPE = float64")
        if array.shape is None:
            for name in ("dims", "decomposition"):
                if getattr(array, name):
                    add(where, name.upper(), "is given, but SHAPE is not", "add SHAPE")
            return
        dimensions = len(array.shape)
        halo = array.halo if isinstance(array.halo, tuple) else (array.halo,) * dimensions
        for name, extents, expected in (
            ("DIMS", array.dims, dimensions),
            ("DECOMPOSITION", array.decomposition, dimensions),
            ("HALO", halo, dimensions),
            ("CHUNKS", array.chunks, dimensions + 1),
        ):
            if extents and len(extents) != expected:
                time = ", time first" if name == "CHUNKS" else ""
                add(
                    where,
                    name,
                    f"expected {expected} entries{time}, since SHAPE has {dimensions} dimensions; "
                    f"got {len(extents)}",
                )

    def coupling(
        self,
        components: list[Component],
        simulations: list[SimulationConfig],
        analytics: list[AnalyticsConfig],
    ) -> None:
        add = self.problems.add
        drivers = [each for each in components if each.kind == "driver"]
        if not drivers:
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
        if simulations and not isinstance(self.conf.get("TIME_LOOP"), Section):
            add(
                "TIME_LOOP",
                "",
                "the section is missing: how many steps does the simulation have?",
                "[TIME_LOOP] with MODE = REGULAR, START = 0, FINISH = 1, NSTEP = 100",
            )
        for each in analytics:
            for array in each.arrays:
                mine = self._simulations_of(each, array, simulations)
                self._check_decomposition(each, array, mine)

    def _simulations_of(
        self, analytics: AnalyticsConfig, array: ArrayConfig, simulations: list[SimulationConfig]
    ) -> list[SimulationConfig]:
        """Who may put an array; where several do, one that is described here must have one."""
        where = f"{analytics.section}][ARRAYS][{array.name}"
        ports = [each.port for each in simulations]
        if array.simulation and array.simulation not in ports:
            self.problems.add(
                where,
                "SIMULATION",
                f"{array.simulation!r} is no port of a simulation",
                did_you_mean(array.simulation, ports) or f"one of {', '.join(ports)}",
            )
        elif array.shape is not None and not array.simulation and len(ports) > 1:
            self.problems.add(
                where,
                "SIMULATION",
                "is missing: which of the simulations puts this array?",
                f"SIMULATION = {ports[0]}, or another of {', '.join(ports)}",
            )
        return [each for each in simulations if array.simulation in ("", each.port)]

    def _check_decomposition(
        self, analytics: AnalyticsConfig, array: ArrayConfig, simulations: list[SimulationConfig]
    ) -> None:
        if array.decomposition is None:
            return
        blocks = 1
        for count in array.decomposition:
            blocks *= count
        if simulations and all(each.nproc not in (0, blocks) for each in simulations):
            ranks = " or ".join(str(each.nproc) for each in simulations)
            self.problems.add(
                f"{analytics.section}][ARRAYS][{array.name}",
                "DECOMPOSITION",
                f"has {blocks} blocks, but the simulation has NPROC = {ranks}",
                "the product of DECOMPOSITION must be NPROC",
            )
