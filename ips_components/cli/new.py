"""``ips-components new``: a coupled run to start from, in a directory of its own."""

import argparse
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

_NAME = re.compile(r"[A-Za-z][\w.-]*")
_PYTHON_PROGRAM = """\
    EXECUTABLE = python
    ARGS = '"$PWD/simulation.py" {NSTEP}'"""
_BUILT_PROGRAM = """\
    EXECUTABLE = $PWD/simulation
    ARGS = {NSTEP}"""


@dataclass(frozen=True, slots=True)
class Language:
    """A language of simulations.

    Attributes
    ----------
    called
        Its name for people.
    sources
        Files of the program.
    alone
        How the program is run by itself.
    """

    called: str
    sources: tuple[str, ...]
    alone: str = "mpiexec -n 2 ./simulation 50"

    @property
    def built(self) -> bool:
        """Whether the program must be compiled."""
        return "Makefile" in self.sources


LANGUAGES = {
    "python": Language("Python", ("simulation.py",), "mpiexec -n 2 python simulation.py 50"),
    "c": Language("C", ("simulation.c", "Makefile")),
    "cxx": Language("C++", ("simulation.cpp", "Makefile")),
    "fortran": Language("Fortran", ("simulation.f90", "start_mpi.c", "Makefile")),
}


def add_subcommands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``new``."""
    parser = subparsers.add_parser(
        "new",
        help="write a coupled run to start from",
        description="Write a config file, a platform file, an MPI simulation and an analysis that "
        "run as they are, into a new directory. The simulation also runs by itself.",
        epilog="example: ips-components new wave --language fortran",
    )
    parser.set_defaults(function=new)
    parser.add_argument("name", help="name of the run, and of the directory")
    parser.add_argument("--directory", type=Path, help="another directory")
    parser.add_argument(
        "--language",
        choices=LANGUAGES,
        help="language of the simulation; asked for on a terminal, else python",
    )


def new(options: argparse.Namespace) -> int:
    """Write the files; nothing that exists is overwritten."""
    name = options.name
    if not _NAME.fullmatch(name):
        print(
            "ips-components new: a name begins with a letter, and consists of letters, digits, _, "
            f"- and ., got {name!r}",
            file=sys.stderr,
        )
        return 2
    directory = options.directory or Path(name)
    language = options.language or _ask()
    texts = _texts(name, language)
    existing = [file for file in texts if (directory / file).exists()]
    if existing:
        print(
            f"ips-components new: {directory} has {', '.join(existing)} already; give another "
            "name, or --directory",
            file=sys.stderr,
        )
        return 1
    directory.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        (directory / file).write_text(text, encoding="utf-8")
    _explain(name, directory, LANGUAGES[language])
    return 0


def _texts(name: str, language: str) -> dict[str, str]:
    """Content of all files, by name."""
    chosen, templates = LANGUAGES[language], files("ips_components.cli") / "templates"
    common = templates / "common"
    program = _BUILT_PROGRAM if chosen.built else _PYTHON_PROGRAM
    config = (common / "run.config").read_text(encoding="utf-8")
    for mark, text in (
        ("@NAME@", name),
        ("@BUILD@", "#     make\n" if chosen.built else ""),
        ("@PROGRAM@", program),
    ):
        config = config.replace(mark, text)
    return {
        f"{name}.config": config,
        **{
            file: (common / file).read_text(encoding="utf-8")
            for file in ("workstation.conf", "analysis.py")
        },
        **{
            file: (templates / language / file).read_text(encoding="utf-8")
            for file in chosen.sources
        },
    }


def _ask() -> str:
    """Ask for the language on a terminal."""
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        return "python"
    while True:
        try:
            answer = input(f"Language of the simulation ({', '.join(LANGUAGES)}) [python]: ")
        except EOFError:
            return "python"
        answer = answer.strip().lower() or "python"
        answer = {"c++": "cxx", "cpp": "cxx"}.get(answer, answer)
        if answer in LANGUAGES:
            return answer
        print(f"{answer!r} is none of {', '.join(LANGUAGES)}")


def _explain(name: str, directory: Path, language: Language) -> None:
    """Say what to do next."""
    print(
        f"{directory} has a run that works, with a simulation in {language.called}. Try it, then "
        "put your own into its place:\n"
    )
    print(f"    cd {shlex.quote(str(directory))}")
    if language.built:
        print("    make")
    print(f"    ips.py --config {name}.config --platform workstation.conf\n")
    print(f"The simulation runs by itself, too: {language.alone}")
    compiler = shutil.which("mpicc") or ""
    if language.built and " " in compiler and Path(sys.prefix) in Path(compiler).parents:
        print(
            f"\n{compiler} cannot compile: its path has a space, which it does not quote. Make the "
            "virtual environment at another path, or take another MPI."
        )
