"""What failed in a framework, and which of it made the run fail."""

import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ips_components.ips_compat._text import describe, split_where

_QUOTED = 4


@dataclass(frozen=True, slots=True)
class Failure:
    """One call of a component's method that did not end well."""

    component: str
    method: str
    error: object

    def echoes(self, other: "Failure") -> bool:
        """Whether this is *other* again, as it came back to a caller."""
        first = str(other.error).strip()
        return bool(first) and first in str(self.error)

    def __str__(self) -> str:
        where = f"component {self.component}, method {self.method}: " if self.component else ""
        return where + describe(self.error)


class Failures:
    """All failures of one framework, in the order in which they were noticed."""

    def __init__(self) -> None:
        self.all: list[Failure] = []
        self.fatal: list[Failure] = []
        """Those for which the run counts as failed."""

    def add_fatal(self, error: object) -> None:
        """Note a failure of the run that is no failure of a call."""
        self.fatal.append(Failure("", "", error))

    def cause(self) -> str:
        """The first failure that made the run fail, not one of its echoes."""
        if not self.fatal:
            return "the framework gave up; its log says why"
        last = self.fatal[0]
        for failure in self.all:
            if last.echoes(failure):
                # A driver of several simulations puts the one before that it is about.
                is_whole = describe(last.error).endswith(describe(failure.error))
                return str(replace(failure, error=last.error) if is_whole else failure)
        return str(last)


def report(cause: str, logs: Iterable[str]) -> None:
    """Say on the terminal why a run failed, and where its logs are."""
    sys.stdout.flush()
    cause, where = split_where(cause)
    first, *quoted = cause.splitlines()
    lines = ["ips_components: the run failed", *(f"  log:   {log}" for log in logs)]
    lines.append(f"  cause: {first}")
    lines += [f"    {line}" for line in quoted[-_QUOTED:]]
    lines += [f"  where: {where}"] if where else []
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()


def signal_name(status: int) -> str:
    """Name of the signal that ended a process with this (negative) exit code."""
    return signal.Signals(-status).name
