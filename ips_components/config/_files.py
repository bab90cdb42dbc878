"""Config and platform files as IPS reads them, with the name of each file kept for messages."""

import contextlib
import difflib
import os
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configobj import ConfigObj, ConfigObjError, Section
from configobj import InterpolationError as ConfigObjInterpolationError

from ips_components.config._parameters import Parameter
from ips_components.config._run import RunConfig
from ips_components.config._types import Raw, as_text

LOG_LEVEL = "LOG_LEVEL"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, where, and what to do about it.

    Attributes
    ----------
    file, section, name
        Where it is.
    message, remedy
        What is wrong, and what to do about it.
    fatal
        Whether the run is refused for it; else it is a warning.
    """

    file: str
    section: str
    name: str
    message: str
    remedy: str = ""
    fatal: bool = True

    def __str__(self) -> str:
        where = " ".join(part for part in (self.section and f"[{self.section}]", self.name) if part)
        lines = [f"{self.file}: {where}" if where else self.file, f"    {self.message}"]
        if self.remedy:
            lines.append(f"    remedy: {self.remedy}")
        return "\n".join(lines)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known name that is most like *name*, as a question, or ""."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else ""


@dataclass(slots=True)
class Problems:
    """Collects what is wrong with one file.

    Attributes
    ----------
    file
        The file.
    strict
        Whether `add` notes errors; if not, warnings. What belongs to foreign components, and stock
        IPS would run with, is no reason to refuse a run.
    """

    file: str
    strict: bool = True
    found: list[Problem] = field(default_factory=list)

    def add(
        self, section: str, name: str, message: str, remedy: str = "", fatal: bool | None = None
    ) -> None:
        """Note one problem: an error or a warning as *fatal* says, by default as `strict` does."""
        fatal = self.strict if fatal is None else fatal
        self.found.append(Problem(self.file, section, name, message, remedy, fatal))

    @property
    def errors(self) -> list[Problem]:
        """What makes a run impossible."""
        return [each for each in self.found if each.fatal]

    @contextlib.contextmanager
    def judged(self, strict: bool) -> Iterator[None]:
        """Within the block, note errors or warnings."""
        before, self.strict = self.strict, strict
        try:
            yield
        finally:
            self.strict = before


@dataclass(frozen=True, slots=True)
class Findings:
    """What a check of files has found.

    Attributes
    ----------
    errors
        Problems because of which nothing is launched.
    warnings
        Problems that stock IPS would run with.
    runs
        One config for each file that could be read.
    """

    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    runs: tuple[RunConfig, ...] = ()


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
        """A value as IPS has it: text, or texts where there is a comma; None when not given."""
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
        """The value of a parameter, its default when it is not given or wrong."""
        default = None if parameter.required else parameter.default
        raw = self.raw(parameter.name)
        if raw is None:
            if parameter.required and parameter.name not in self.values:
                self._missing(parameter)
            return default
        optional = not parameter.required or parameter.kind.read is as_text
        if optional and raw in ("", []):
            return "" if parameter.required else default
        try:
            return parameter.kind.read(raw)
        except ValueError as error:
            if raw in ("", []) and parameter.kind.expects.startswith("names"):
                return ()
            self._wrong(parameter, as_text(raw), str(error))
            return default

    def _wrong(self, parameter: Parameter, text: str, error: str) -> None:
        name, kind = parameter.name, parameter.kind
        reason = f" ({error})" if "is no" in error else ""
        message = f"expected {kind.expects}, got {text!r}{reason}"
        remedy = f"for example {name} = {kind.example}" if kind.example else ""
        if name in self.exported:
            message = f"is not in this file, but exported in the environment: {message}"
            remedy = f"unset {name}, or give {name} in this file"
        # IPS itself fails with a level that the module logging does not have.
        self.problems.add(self.section, name, message, remedy, True if name == LOG_LEVEL else None)

    def _missing(self, parameter: Parameter) -> None:
        similar = did_you_mean(parameter.name, self.values)
        remedy = f"{similar.replace('did you mean', 'is it meant by')}" if similar else ""
        example = f" {parameter.kind.example}" if parameter.kind.example else ""
        self.problems.add(
            self.section,
            parameter.name,
            f"is missing; expected {parameter.kind.expects}: {parameter.meaning}",
            remedy or f"add the line {parameter.name} ={example}",
            fatal=True,
        )

    def all(self, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
        """All parameters of a scope, by name."""
        return {name: self.get(parameter) for name, parameter in parameters.items()}

    def unknown(self, known: Iterable[str]) -> None:
        """Note names that nobody will read."""
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
