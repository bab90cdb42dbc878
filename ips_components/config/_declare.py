"""Parameters as fields of dataclasses: one declaration for type, default, check and reference."""

from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any

from ips_components.config._types import ParameterType


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED: Any = _Required()
_DECLARATION = "parameter"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a config or platform file.

    Parameters
    ----------
    name
        As written in the file.
    type
        What its value may be.
    meaning
        One sentence for the reference page.
    default
        Value when it is not given, `REQUIRED` when it must be given.
    unit
        Of a number.
    """

    name: str
    type: ParameterType
    meaning: str
    default: Any = REQUIRED
    unit: str = ""

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is REQUIRED


def parameter(
    type_: ParameterType, meaning: str, default: Any = REQUIRED, *, unit: str = ""
) -> Any:
    """Return a field of a dataclass that is a parameter; its name there is in lower case.

    Parameters
    ----------
    type_, meaning, default, unit
        As of `Parameter`.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> from ips_components.config import _types as types
    >>> @dataclass
    ... class Section:
    ...     nproc: int = parameter(types.POSITIVE_INT, "Processes.", 1)
    >>> Section().nproc
    1
    >>> declared(Section)["NPROC"].meaning
    'Processes.'
    """
    metadata = {_DECLARATION: (type_, meaning, unit)}
    if default is REQUIRED:
        return field(metadata=metadata)
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@cache
def declared(section: type) -> dict[str, Parameter]:
    """Return the parameters of a dataclass by their names in a file."""
    found = {}
    for each in fields(section):
        if _DECLARATION not in each.metadata:
            continue
        type_, meaning, unit = each.metadata[_DECLARATION]
        default = REQUIRED
        if each.default is not MISSING:
            default = each.default
        elif each.default_factory is not MISSING:
            default = each.default_factory()
        name = field_to_name(each.name)
        found[name] = Parameter(name, type_, meaning, default, unit)
    return found


def field_to_name(name: str) -> str:
    """Return the name of a parameter in a file; Python's keywords have an underscore at the end."""
    return name.rstrip("_").upper()


def name_to_field(name: str) -> str:
    """Return the name of a parameter as a field."""
    return "class_" if name == "CLASS" else name.lower()
