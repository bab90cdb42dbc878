"""The run record ``run.json``: what happened in one run, for people and for programs.

The record is the machine-readable counterpart of the report.  Every field has a default, so that a
run that died before its first step has as valid a record as one that went well; fields that
this version does not know are kept as they are.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ips_components.errors import RecordError
from ips_components.report._schema import RECORD, complete

FORMAT = "ips-components-run"
VERSION = 1
FILE_NAME = "run.json"

#: Packages whose versions decide how a run behaves.
PACKAGES = (
    "ips_components",
    "ipsframework",
    "dask",
    "distributed",
    "numpy",
    "xarray",
    "zarr",
    "mpi4py",
)

_SECRET = re.compile(r"TOKEN|PASSW|SECRET|API_?KEY", re.IGNORECASE)


def make_record(
    run: str,
    *,
    status: str,
    cause: str | None = None,
    coordinator: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Put a complete record together from what is known.

    Parameters
    ----------
    run : str
        The run id.
    status : {"ok", "failed"}
    cause : str, optional
        Why the run failed, in one sentence; the first fault of the coordinator if left out.
    coordinator : mapping, optional
        ``RunState.record()`` with the states of the external tasks; None when the run ended
        before there was a scheduler to ask.
    config : mapping, optional
        The parameters as resolved.  Values of parameters that look like secrets are hidden.
    **fields
        Any other field of the record: ``simulation``, ``contract``, ``results``, ``figures``,
        ``started``, ``ended``, ``pool`` ...

    Returns
    -------
    dict
        Plain JSON values, checked, with every default filled in.

    Raises
    ------
    RecordError
        If a field breaks the schema.
    """
    record: dict[str, Any] = {**(coordinator or {})}
    record.update({key: value for key, value in fields.items() if value is not None})
    record.update(
        format=FORMAT,
        version=VERSION,
        run=run,
        status=status,
        cause=cause,
        config=_without_secrets(config or {}),
    )
    record.setdefault("versions", versions())
    return check_record(record)


def check_record(record: Mapping[str, Any], origin: str = FILE_NAME) -> dict[str, Any]:
    """Check a record against the schema and fill in the defaults.

    Raises
    ------
    RecordError
        Naming the field, what was expected there and what was found.
    """
    plain = _plain(record)
    if plain.get("format", FORMAT) != FORMAT:
        raise RecordError(f"{origin}: format is {plain['format']!r}, expected {FORMAT!r}")
    version = plain.get("version", VERSION)
    if not isinstance(version, int) or version > VERSION:
        raise RecordError(
            f"{origin}: version {version!r} of the record is newer than this package, which "
            f"reads up to version {VERSION}; read it with the version that wrote it or a later one"
        )
    checked: dict[str, Any] = complete(RECORD, plain, origin)
    if checked["status"] == "failed" and checked["cause"] is None and checked["faults"]:
        fault = checked["faults"][0]
        checked["cause"] = f"{fault['who']} {fault['what']}: {last_line(fault['cause'])}"
    return checked


def write_record(record: Mapping[str, Any], run_dir: str | Path) -> Path:
    """Write ``run.json`` so that a reader sees the old file or the new one, never half of one.

    Parameters
    ----------
    record : mapping
        Checked before anything is written.
    run_dir : path-like
        Made if it does not exist.

    Returns
    -------
    pathlib.Path
        Of the file.
    """
    text = json.dumps(check_record(record), indent=1, allow_nan=False)
    return write_text(Path(run_dir) / FILE_NAME, text + "\n")


def read_record(run_dir: str | Path) -> dict[str, Any]:
    """Read the record of a run.

    Parameters
    ----------
    run_dir : path-like
        The run's directory, or ``run.json`` itself.

    Raises
    ------
    RecordError
        If there is none, it is no JSON, or it breaks the schema.
    """
    path = Path(run_dir)
    if path.is_dir():
        path = path / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecordError(
            f"{path}: {error.strerror or error}; give the directory of a run "
            "(SIM_ROOT/run_<run id>), which holds run.json"
        ) from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is not text: {error}") from error
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"{path} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise RecordError(f"{path}: expected an object, got {type(record).__name__}")
    return check_record(record, str(path))


def write_text(path: Path, text: str) -> Path:
    """Write a file atomically: a temporary one beside it, then a rename.

    Others may read it as the umask says, which `tempfile` would not follow.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of those packages that are installed, and of Python."""
    found = {"python": ".".join(str(part) for part in _python_version())}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def last_line(text: str | None) -> str:
    """The last line with words in it: of a traceback, the one that names the error."""
    lines = [line.strip() for line in (text or "").splitlines() if re.search(r"\w", line)]
    return lines[-1] if lines else ""


def _python_version() -> tuple[int, int, int]:
    import sys

    return sys.version_info[:3]


def _without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(name): "(hidden)" if _SECRET.search(str(name)) else value
        for name, value in config.items()
    }


def _plain(value: Any) -> Any:
    """Reduce to what JSON knows: NumPy scalars, paths, tuples, sets; no NaN, which JSON lacks."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item) for item in value), key=str)
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return _plain(value.tolist())
    return str(value)
