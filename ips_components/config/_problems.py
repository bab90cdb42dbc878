"""What is wrong with config and platform files, collected instead of raised."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ips_components.config._run import RunConfig
from ips_components.config._sections import Platform


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
    """Return the known name that is most like *name*, as a question, or ""."""
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
    platform
        The platform file; None when it could not be read.
    """

    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    runs: tuple[RunConfig, ...] = ()
    platform: Platform | None = None


def findings(
    found: Sequence[Problem], runs: Sequence[RunConfig], platform: Platform | None
) -> Findings:
    """Sort problems by what follows from them."""
    return Findings(
        errors=tuple(each for each in found if each.fatal),
        warnings=tuple(each for each in found if not each.fatal),
        runs=tuple(runs),
        platform=platform,
    )
