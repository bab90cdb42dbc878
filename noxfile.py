"""The habits of this project by name: ``nox -l`` lists them, ``nox -s quick`` runs one.

Each session installs the checkout into an environment of its own, which is used again.
"""

import nox

nox.options.sessions = ["lint", "types", "quick"]
nox.options.reuse_venv = "yes"

QUICK = ("tests/unit", "tests/conformance")
LONG = ("slurm", "container", "browser", "course", "versions", "deaths", "campaign", "fuzz")


def install(session: nox.Session, extras: str = "mpich,test") -> None:
    """Install the checkout as the README does."""
    session.install("-e", f".[{extras}]")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting, and the one-way imports between the packages."""
    install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Static types of the packages that are strict (setup.cfg lists them)."""
    install(session)
    session.run("mypy")


@nox.session
def quick(session: nox.Session) -> None:
    """Unit and conformance tests: two minutes on two cores."""
    install(session)
    session.run("pytest", *QUICK, *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The default tests, as the README's second command runs them."""
    install(session)
    session.run("pytest", *session.posargs)


@nox.session
@nox.parametrize("marker", LONG)
def long(session: nox.Session, marker: str) -> None:
    """One of the longer suites."""
    install(session)
    session.run("pytest", "-m", marker, "--timeout", "1200", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, warnings as errors, into docs/_build."""
    install(session, "mpich,test,docs")
    session.run("sphinx-build", "-W", "-b", "html", "docs", "docs/_build")


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Ratios measured side by side; arguments go to ``python -m benchmarks``."""
    install(session)
    session.run("python", "-m", "benchmarks", *session.posargs)
