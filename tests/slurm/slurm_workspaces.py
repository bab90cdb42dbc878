"""A user's directory for a job: copies of the repository's files, with some parameters changed."""

from __future__ import annotations

import shutil
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def copy_of(workspace: Path, *directories: str) -> None:
    """Copy `directories` of the repository to the same places below `workspace`."""
    for directory in directories:
        shutil.copytree(REPOSITORY / directory, workspace / directory)


def set_parameters(path: Path, **values: object) -> None:
    """Set parameters of a config or platform file.

    ``NAME=value`` changes the one line that sets NAME; ``NAME__SECTION=value`` sets NAME in one
    section, where it need not be yet.
    """
    lines = path.read_text().splitlines()
    for key, value in values.items():
        name, _, section = key.partition("__")
        first, last = _section(lines, section)
        at = [i for i in range(first, last) if lines[i].split("=")[0].strip() == name]
        if len(at) > 1 or not (at or section):
            raise ValueError(f"{path}: {name} is set {len(at)} times; name its section")
        lines[at[0] if at else first : at[0] + 1 if at else first] = [f"{name} = {value}"]
    path.write_text("\n".join(lines) + "\n")


def _section(lines: list[str], name: str) -> tuple[int, int]:
    """First line after the head of a section and the line of the next head."""
    if not name:
        return 0, len(lines)
    first = lines.index(f"[{name}]") + 1
    heads = (i for i in range(first, len(lines)) if lines[i].startswith("["))
    return first, next(heads, len(lines))
