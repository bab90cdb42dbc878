"""The reference page of all parameters."""

from collections.abc import Iterator

from ips_components.config._array import ArrayConfig
from ips_components.config._declare import Parameter, declared
from ips_components.config._run import AnalyticsConfig, SimulationConfig
from ips_components.config._sections import ComponentSection, Platform, TimeSection, TopLevel

SECTIONS: dict[type, str] = {
    TopLevel: "top of the config file",
    TimeSection: "section `[TIME_LOOP]`",
    ComponentSection: "section of any component",
    SimulationConfig: "section of `ips_components.simulation`, `NAME = Simulation`",
    AnalyticsConfig: "section of `ips_components.analytics`, `NAME = Analytics`",
    ArrayConfig: "sub-section `[[ARRAYS]] [[[name]]]` of the analytics",
    Platform: "platform file",
}
"""What parameters are declared in, and where they are in the files."""


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
    yield "Made from the declarations that also check config files; `ips-components check` explains"
    yield "what is wrong with one."
    for section, where in SECTIONS.items():
        rows = declared(section).values()
        yield ""
        yield f"## {where[0].upper()}{where[1:]}"
        yield ""
        yield "| name | expected | default | meaning |"
        yield "|---|---|---|---|"
        for each in rows:
            unit = f" [{each.unit}]" if each.unit else ""
            cells = (f"`{each.name}`{unit}", each.type.expects, _default(each), each.meaning)
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(parameter: Parameter) -> str:
    value = parameter.default
    if parameter.required:
        return "**required**"
    if value is None or value in ("", (), {}):
        return "none"
    return f"`{', '.join(value) if isinstance(value, tuple) else value}`"
