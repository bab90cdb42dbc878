"""A config file with some of its parameters replaced, as it is run from Python."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from configobj import ConfigObj, Section

from ips_components.config import _types as types
from ips_components.config._array import ArrayConfig
from ips_components.config._components import find_components
from ips_components.config._declare import Parameter, declared
from ips_components.config._problems import Problems, did_you_mean
from ips_components.config._run import AnalyticsConfig, SimulationConfig
from ips_components.config._sections import ComponentSection, LaunchSection, TimeSection, TopLevel
from ips_components.errors import ConfigError

_ARRAYS = "ARRAYS"
_OF_KIND: Mapping[str, tuple[type, ...]] = {
    "simulation": (SimulationConfig,),
    "analytics": (AnalyticsConfig,),
    "": (LaunchSection,),
}


def override(config: Path, changes: Mapping[str, Any]) -> ConfigObj:
    """Return the content of a config file with some of its parameters replaced.

    Parameters
    ----------
    config
        The file.
    changes
        Values by name. A name is that of a parameter, if only one section can have it; or that of
        a section or port, with a mapping as value. None takes a parameter out of the file.

    Returns
    -------
    ConfigObj
        Not interpolated; what it refers to beside the file is found from elsewhere, too.

    Raises
    ------
    ConfigError
        With everything that is wrong with the changes, or when the file cannot be read.
    """
    try:
        conf = ConfigObj(str(config), interpolation=False, file_error=True, raise_errors=True)
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config}: cannot be read: {error}") from error
    _stay_beside(conf, config.absolute().parent)
    overriding = _Overriding(conf)
    for name, value in changes.items():
        overriding.apply(name, value)
    if overriding.wrong:
        count = len(overriding.wrong)
        head = f"{config}: {count} override{'' if count == 1 else 's'} cannot be applied"
        raise ConfigError("\n".join([head, *(f"    {each}" for each in overriding.wrong)]))
    return conf


def _stay_beside(conf: ConfigObj, directory: Path) -> None:
    """Let IPS look for input files where the file is, wherever its copy is."""
    for section in (conf, *(conf[name] for name in conf.sections)):
        given = section.get("INPUT_DIR")
        if isinstance(given, str) and given and not given.startswith(("$", "/")):
            section["INPUT_DIR"] = str(directory / given)
    conf.setdefault("INPUT_DIR", str(directory))


class _Overriding:
    """Applies changes to a config one by one, and collects what is wrong with them."""

    def __init__(self, conf: ConfigObj) -> None:
        self.conf = conf
        self.wrong: list[str] = []
        found = find_components(conf, Problems(""))
        self._components = list({each.section: each for each in found}.values())
        self._ports = {each.port: each.section for each in found}

    def apply(self, name: str, value: Any) -> None:
        """Apply one change."""
        section = self._ports.get(name, name)
        if isinstance(self.conf.get(section), Section):
            if not isinstance(value, Mapping):
                self.wrong.append(
                    f"{name}: is a section: give its parameters, for example "
                    f"{name}={{'NAME': value}}, got {value!r}"
                )
                return
            self._section(section, value)
            return
        places = list(self._places(name))
        if len(places) == 1:
            where, parameter = places[0]
            self._set(self.conf if where == "" else self.conf[where], where, parameter, name, value)
        elif places:
            ports = {section: port for port, section in self._ports.items()}
            named = [ports.get(where, where) for where, _ in places]
            self.wrong.append(
                f"{name}: may be meant for {', '.join(named[:-1])} or {named[-1]}: say which, for "
                f"example {named[-1]}={{{name!r}: {value!r}}}"
            )
        else:
            self._unknown(name, value)

    # --- where a name belongs --------------------------------------------------------------------

    def _places(self, name: str) -> Iterator[tuple[str, Parameter | None]]:
        """Sections that may have a parameter of this name, the top as ""."""
        if name in declared(TopLevel) or name in self.conf.scalars:
            yield "", declared(TopLevel).get(name)
            return
        if name in declared(TimeSection):
            yield "TIME_LOOP", declared(TimeSection)[name]
            return
        for component in self._components:
            own = _of_kind(component.kind)
            if name in own or name in component.values:
                yield component.section, _parameters(component.kind).get(name)

    def _unknown(self, name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            known = [*self.conf.sections, *self._ports]
            meant = did_you_mean(name, known) or f"there are {', '.join(dict.fromkeys(known))}"
            self.wrong.append(f"{name}: there is no such section or port; {meant}")
            return
        known = [*declared(TopLevel), *declared(TimeSection)]
        for component in self._components:
            known += [*_parameters(component.kind), *component.values]
        hint = did_you_mean(name.upper(), known)
        meant = hint or "`ips-components check --reference` lists the parameters"
        self.wrong.append(f"{name}: there is no such parameter; {meant}")

    # --- setting ---------------------------------------------------------------------------------

    def _section(self, section: str, values: Mapping[str, Any]) -> None:
        kinds = {each.section: each.kind for each in self._components}
        known: Mapping[str, Parameter] = {}
        if section == "TIME_LOOP":
            known = declared(TimeSection)
        elif section in kinds:
            known = _parameters(kinds[section])
        for name, value in values.items():
            if name == _ARRAYS and kinds.get(section) == "analytics":
                self._arrays(section, value)
                continue
            own = kinds.get(section) or section == "TIME_LOOP"
            if own and name not in known and name not in self.conf[section]:
                meant = did_you_mean(name.upper(), known)
                self.wrong.append(f"{section}: {name} is no parameter of this section; {meant}")
                continue
            self._set(self.conf[section], section, known.get(name), name, value)

    def _arrays(self, section: str, arrays: Any) -> None:
        if not isinstance(arrays, Mapping) or not all(
            isinstance(each, Mapping) for each in arrays.values()
        ):
            self.wrong.append(
                f"{section}: ARRAYS has a section for each array: give a mapping of mappings, for "
                f"example ARRAYS={{'temperature': {{'HALO': 1}}}}, got {arrays!r}"
            )
            return
        inner = self.conf[section].setdefault(_ARRAYS, {})
        for array, values in arrays.items():
            place = inner.setdefault(array, {})
            for name, value in values.items():
                parameter = declared(ArrayConfig).get(name)
                where = f"{section} ARRAYS {array}"
                if parameter is None:
                    meant = did_you_mean(name.upper(), declared(ArrayConfig))
                    self.wrong.append(f"{where}: {name} is no parameter of an array; {meant}")
                    continue
                self._set(place, where, parameter, name, value)

    def _set(
        self, section: Section, where: str, parameter: Parameter | None, name: str, value: Any
    ) -> None:
        if value is None:
            section.pop(name, None)
            return
        place = f"{where} {name}".strip()
        try:
            text = as_written(value, parameter)
        except TypeError as error:
            self.wrong.append(f"{place}: {error}")
            return
        if parameter is not None and "$" not in text:
            try:
                parameter.type.read(text)
            except ValueError:
                self.wrong.append(f"{place}: expected {parameter.type.expects}, got {value!r}")
                return
        section[name] = text


def _of_kind(kind: str) -> dict[str, Parameter]:
    return {name: each for cls in _OF_KIND.get(kind, ()) for name, each in declared(cls).items()}


def _parameters(kind: str) -> dict[str, Parameter]:
    return {**declared(ComponentSection), **_of_kind(kind)}


def as_written(value: Any, parameter: Parameter | None = None) -> str:
    """Return a Python value as it would be written in a config file.

    Raises
    ------
    TypeError
        When there is no way to write it.

    Examples
    --------
    >>> as_written([128, 64]), as_written(True), as_written(slice(0, 100, 10))
    ('128, 64', 'True', '0:100:10')
    """
    type_ = None if parameter is None else parameter.type
    if not isinstance(value, (str, PathLike, Mapping, slice, Sequence)):
        value = _plain(value)
    if isinstance(value, (str, PathLike)):
        return str(value)
    if isinstance(value, Mapping):
        if type_ is types.PAIRS:
            return " ".join(f"{name}={_quoted(str(each))}" for name, each in value.items())
        return json.dumps(_plain(dict(value)))
    if isinstance(value, slice):
        parts = (value.start, value.stop, value.step)
        return ":".join("" if part is None else str(part) for part in parts)
    if type_ is types.CHUNKS and isinstance(value, (tuple, list)):
        return repr(tuple(value))
    if isinstance(value, Sequence):
        texts = [as_written(each) for each in value]
        return shlex.join(texts) if type_ is types.WORDS else ", ".join(texts)
    return str(value)


def _quoted(text: str) -> str:
    quote = '"' if "'" in text else "'"
    return (
        f"{quote}{text}{quote}" if not text or any(c.isspace() or c == "," for c in text) else text
    )


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's, also within mappings and lists."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, PathLike):
        return str(value)
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a config file cannot hold {value!r} of type {type(value).__name__}")
