"""Config and platform files as IPS reads them."""

import os
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from configobj import ConfigObj, ConfigObjError, Section
from configobj import InterpolationError as ConfigObjInterpolationError

from ips_components.config._declare import Parameter, declared, name_to_field
from ips_components.config._problems import Problems, did_you_mean
from ips_components.config._types import Raw, as_text


class Reader:
    """Reads typed values of one section, and collects what is wrong instead of raising."""

    def __init__(
        self,
        section: str,
        values: Mapping[str, Any],
        problems: Problems,
        exported: Container[str] = (),
    ) -> None:
        self.section = section
        self.values = values
        self.problems = problems
        self.exported = exported
        """Names whose values come from the environment, since the file does not have them."""

    def raw(self, name: str) -> Raw | None:
        """Return a value as IPS has it: text, or texts where it has commas; None if not given."""
        if name not in self.values:
            return None
        try:
            value = self.values[name]
        except ConfigObjInterpolationError as error:
            self.problems.add(
                self.section,
                name,
                f"{error}",
                "export PWD: it is usually set by the shell, but not here"
                if '"PWD"' in str(error)
                else "a name after $ must be defined above it, at the top of the file or in the "
                "environment",
                fatal=True,
            )
            return None
        if isinstance(value, (str, list)):
            return value
        if isinstance(value, Section):
            self.problems.add(self.section, name, "expected a value, got a section")
            return None
        return str(value)  # what IPS has converted already

    def get(self, parameter: Parameter) -> Any:
        """Return the value of a parameter, its default when it is not given or wrong."""
        default = None if parameter.required else parameter.default
        raw = self.raw(parameter.name)
        if raw is None:
            if parameter.required and parameter.name not in self.values:
                self._missing(parameter)
            return default
        optional = not parameter.required or parameter.type.read is as_text
        if optional and raw in ("", []):
            return "" if parameter.required else default
        try:
            return parameter.type.read(raw)
        except ValueError as error:
            if raw in ("", []) and parameter.type.expects.startswith("names"):
                return ()
            self._wrong(parameter, as_text(raw), str(error))
            return default

    def _wrong(self, parameter: Parameter, text: str, error: str) -> None:
        name, type_ = parameter.name, parameter.type
        reason = f" ({error})" if "is no" in error or "twice" in error else ""
        message = f"expected {type_.expects}, got {text!r}{reason}"
        remedy = f"for example {name} = {type_.example}" if type_.example else ""
        if name in self.exported:
            message = f"is not in this file, but exported in the environment: {message}"
            remedy = f"unset {name}, or give {name} in this file"
        # IPS itself fails with a level that the module logging does not have.
        self.problems.add(
            self.section, name, message, remedy, True if name == "LOG_LEVEL" else None
        )

    def _missing(self, parameter: Parameter) -> None:
        similar = did_you_mean(parameter.name, self.values)
        remedy = f"{similar.replace('did you mean', 'is it meant by')}" if similar else ""
        example = f" {parameter.type.example}" if parameter.type.example else ""
        self.problems.add(
            self.section,
            parameter.name,
            f"is missing; expected {parameter.type.expects}: {parameter.meaning}",
            remedy or f"add the line {parameter.name} ={example}",
            fatal=True,
        )

    def read(self, section: type) -> dict[str, Any]:
        """Return the values of all parameters that a dataclass declares, by field."""
        return {
            name_to_field(name): self.get(parameter)
            for name, parameter in declared(section).items()
        }

    def unknown(self, known: Iterable[str]) -> None:
        """Note names that are not read."""
        known = list(known)
        for name, value in self.values.items():
            if name in known or isinstance(value, Section):
                continue
            self.problems.add(
                self.section,
                name,
                "is not a parameter of this section",
                did_you_mean(name, known)
                or "remove it; `ips-components check --reference` lists the parameters",
            )


def read_file(path: Path, problems: Problems) -> ConfigObj | None:
    """Read one file; None when it cannot be read, which is noted."""
    try:
        return ConfigObj(str(path), interpolation="template", file_error=True, raise_errors=False)
    except OSError as error:
        problems.add("", "", f"cannot be read: {error}", "give the path of an existing file", True)
    except ConfigObjError as error:
        for each in getattr(error, "errors", None) or [error]:
            problems.add("", "", f"is not well formed: {each}", "see the lines around it", True)
    except UnicodeDecodeError as error:
        problems.add("", "", f"is not text: {error}", fatal=True)
    return None


def with_environment(conf: ConfigObj) -> frozenset[str]:
    """Add the environment as IPS does, for ``$NAME`` in values; return the file's own names."""
    own = frozenset(conf)
    for name, value in os.environ.items():
        if name not in conf and not any(character in value for character in "{}()$"):
            conf[name] = value
    return own
