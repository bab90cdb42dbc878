"""The arrays that a config describes: sub-sections, and whether their numbers fit."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from configobj import Section

from ips_components.config._array import ArrayConfig
from ips_components.config._components import Component
from ips_components.config._declare import declared
from ips_components.config._files import Reader
from ips_components.config._problems import Problems, did_you_mean
from ips_components.config._run import SimulationConfig
from ips_components.errors import GeometryError

if TYPE_CHECKING:
    from ips_components.model import ArraySpec


def read_arrays(component: Component, problems: Problems) -> tuple[ArrayConfig, ...]:
    """Return the arrays of an analytics' section."""
    add = problems.add
    sections = component.values.get("ARRAYS", {})
    for name, value in component.values.items():
        if isinstance(value, Section) and name != "ARRAYS":
            add(
                component.section,
                name,
                "is a sub-section that no component reads",
                did_you_mean(name, ["ARRAYS"]) or "arrays are described below [[ARRAYS]]",
            )
    if not isinstance(sections, Mapping):
        add(component.section, "ARRAYS", "expected a sub-section [[ARRAYS]], got a value")
        return ()
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
        reader = Reader(where, values, problems)
        reader.unknown(declared(ArrayConfig))
        arrays.append(ArrayConfig(name=name, **reader.read(ArrayConfig)))
    return tuple(arrays)


def check_array(
    where: str, array: ArrayConfig, n_steps: int | None, n_receivers: int, problems: Problems
) -> None:
    """Check the numbers of one array by the classes that the run makes of them."""
    add = problems.add
    before = len(problems.found)
    _check_name_and_type(where, array, problems)
    if array.shape is None:
        for name in ("dims", "decomposition", "levels"):
            if getattr(array, name):
                add(where, name.upper(), "is given, but SHAPE is not", "add SHAPE")
        return
    _check_lengths(where, array, problems)
    description = array.description(n_steps)
    if len(problems.found) > before or description is None:
        return
    if array.at_most and description["steps"]["count"] is None:
        add(
            where,
            "AT_MOST",
            "is True, but there is no number of steps that would be the bound",
            "add STEPS = 0:1000, or another number that is never exceeded, or leave it out: "
            "the graph then grows with the steps that come",
        )
        return
    _check_geometry(where, array, description, n_receivers, problems)


def _check_geometry(
    where: str,
    array: ArrayConfig,
    description: Mapping[str, Any],
    n_receivers: int,
    problems: Problems,
) -> None:
    """Make of an array what the run makes of it; the parameter that fails is named."""
    from ips_components.model import ArraySpec, ChunkLayout, StepAxis
    from ips_components.model.margins import Margins

    name = "STEPS"
    try:
        steps = StepAxis(**description["steps"], at_most=array.at_most)
        name = "DIMS" if array.dims else "SHAPE"
        spec = ArraySpec(
            array.name,
            array.dtype,
            tuple(description["shape"]),
            steps,
            dims=array.dims,
            ragged=description["ragged"],
            ids=description.get("ids", ""),
        )
        _check_what_fits(where, array, spec, problems)
        name = "CHUNKS"
        if not steps.open_ended:
            ChunkLayout.from_spec(spec, array.chunks, n_receivers)
        name = "SHARED" if array.shared else "HALO"
        margins = Margins.of(array.name, tuple(description["shape"]), array.halo, array.owner)
        if spec.ragged and (any(map(any, margins.halo)) or any(margins.shared)):
            why = "is given, but the array is ragged: its rows have none"
            problems.add(where, name, why, "leave it out")
        name = "DECOMPOSITION"
        if array.decomposition is not None and not spec.ragged:
            margins.regular(array.decomposition)
    except (GeometryError, TypeError, ValueError) as error:
        problems.add(where, name, str(error))


def _check_what_fits(where: str, array: ArrayConfig, spec: "ArraySpec", problems: Problems) -> None:
    """Refuse parameters that the kind of the array has no use for."""
    if array.levels and not (spec.ragged and len(spec.shape) > 1):
        message = f"is given, but the rows of the shape {list(array.shape or ())} are no blocks"
        problems.add(where, "LEVELS", message, "SHAPE = -1, 8, 8")
    if spec.ids:
        for other in ("decomposition", "halo", "shared"):
            if getattr(array, other):
                why = "is given beside IDS: ranks have no blocks then"
                problems.add(where, other.upper(), why)


def _check_name_and_type(where: str, array: ArrayConfig, problems: Problems) -> None:
    from ips_components.model import ArraySpec, StepAxis

    for name, dtype, parameter in ((array.name, "float64", ""), ("a", array.dtype, "DTYPE")):
        try:
            ArraySpec(name, dtype, (1,), StepAxis(count=1))
        except (GeometryError, TypeError) as error:
            if parameter:
                message, remedy = f"expected a NumPy type of fixed size, got {dtype!r}", ""
                problems.add(where, parameter, message, remedy or "DTYPE = float64")
            else:
                problems.add(where, "", str(error), f"rename [[[{name}]]], and what is put")


def _check_lengths(where: str, array: ArrayConfig, problems: Problems) -> None:
    """Check that lists have an entry for each dimension."""
    dimensions = len(array.shape or ())
    for name, entries, expected in (
        ("DIMS", array.dims, dimensions),
        ("DECOMPOSITION", array.decomposition, dimensions),
        ("HALO", array.halo if _is_each(array.halo) else (), dimensions),
        ("SHARED", array.shared if len(array.shared) > 1 else (), dimensions),
        ("CHUNKS", array.chunks, dimensions + 1),
    ):
        if entries and len(entries) != expected:
            time = ", time first" if name == "CHUNKS" else ""
            problems.add(
                where,
                name,
                f"expected {expected} entries{time}, since SHAPE has {dimensions} dimensions; "
                f"got {len(entries)}",
            )
    if "time" in array.dims:
        problems.add(
            where,
            "DIMS",
            "has 'time', which is the name of the dimension that the steps make",
            "leave it out: DIMS names the dimensions of space",
        )


def _is_each(halo: object) -> bool:
    """Return whether a halo has an entry per dimension: it is no number, and no pair for all."""
    return isinstance(halo, tuple) and (len(halo) > 1 or not isinstance(halo[0], tuple))


def simulations_of(
    where: str,
    array: ArrayConfig,
    simulations: Sequence[SimulationConfig],
    problems: Problems,
) -> list[SimulationConfig]:
    """Return the simulations that may put an array; the config must name one of several."""
    ports = [each.port for each in simulations]
    if array.simulation and array.simulation not in ports:
        problems.add(
            where,
            "SIMULATION",
            f"{array.simulation!r} is no port of a simulation",
            did_you_mean(array.simulation, ports) or f"one of {', '.join(ports)}",
        )
    elif array.shape is not None and not array.simulation and len(ports) > 1:
        problems.add(
            where,
            "SIMULATION",
            "is missing: which of the simulations puts this array?",
            f"SIMULATION = {ports[0]}, or another of {', '.join(ports)}",
        )
    return [each for each in simulations if array.simulation in ("", each.port)]


def check_decomposition(
    where: str,
    array: ArrayConfig,
    simulations: Sequence[SimulationConfig],
    problems: Problems,
) -> None:
    """Check that each rank has a block."""
    if array.decomposition is None:
        return
    blocks = math.prod(array.decomposition)
    if simulations and all(each.nproc not in (0, blocks) for each in simulations):
        ranks = " or ".join(str(each.nproc) for each in simulations)
        problems.add(
            where,
            "DECOMPOSITION",
            f"has {blocks} blocks, but the simulation has NPROC = {ranks}",
            "the product of DECOMPOSITION must be NPROC",
        )
