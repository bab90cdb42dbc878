"""Programs that are copied from here end after MPI_Abort, which may return (MPICH 5)."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CALL = re.compile(r"(?:^|[\s.+])(MPI_Abort|COMM_WORLD\.Abort|CALL report_error) ?\(")
END = re.compile(r"\+?\s*(exit\(|return \d|error stop \d|sys\.exit\()", re.IGNORECASE)


def texts():
    """Yield each file with a call of MPI_Abort, and its lines."""
    for folder in ("examples", "docs", "ips_components/cli/templates", "tests/ips/parts"):
        for path in sorted((ROOT / folder).rglob("*")):
            made = any(
                part.startswith("_") for part in path.relative_to(ROOT).parent.parts
            )  # when docs are built
            if not made and path.suffix in {".c", ".cpp", ".f90", ".md", ".patch", ".py"}:
                lines = path.read_text().splitlines()
                if any(CALL.search(line) and "subroutine" not in line for line in lines):
                    yield pytest.param(lines, id=str(path.relative_to(ROOT)))


@pytest.mark.parametrize("lines", list(texts()))
def test_the_statement_after_mpi_abort_ends_the_program(lines):
    for line, after in pairwise(lines):
        if CALL.search(line) and "subroutine" not in line and not line.lstrip().startswith("!"):
            assert END.match(after), (line, after)
