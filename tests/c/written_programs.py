"""Programs in Fortran and C++ that are written for one test: filled in, built and run."""

import os
import shutil
from contextlib import contextmanager

import pytest
from c_ranks import LIBRARY, coupling
from test_cpp import STRICT, run


def listed(numbers):
    return ", ".join(map(str, numbers))


def need_compiler(language):
    """Skip a test where the language has no compiler here."""
    compile_with = "gfortran" if language == "fortran" else "g++"
    if not shutil.which(compile_with):
        pytest.skip(f"needs {compile_with}")


@contextmanager
def ran(language, text, facts, built, tmp_path, sink, contract):
    """Have a program run with a contract; it says nothing, and what it has put is in the sink.

    In its text each ``@name@`` stands for a fact.
    """
    for name, fact in facts.items():
        text = text.replace(f"@{name}@", str(fact))
    out, library = tmp_path / "ranks", built / "libips_bridge.a"
    source = tmp_path / ("ranks.f90" if language == "fortran" else "ranks.cpp")
    source.write_text(text)
    if language == "fortran":
        flags = ["-std=f2008", "-fcheck=bounds,do,mem,pointer", "-J", tmp_path]
        run("gfortran", *flags, LIBRARY / "ips_bridge.f90", source, library, "-o", out)
    else:
        run("g++", "-std=c++17", *STRICT, f"-I{LIBRARY}", source, library, "-o", out)
    with coupling(tmp_path, [sink], contract) as (contact, _):
        said = run(out, env={**os.environ, "IPS_COMPONENTS_CONTACT": str(contact)})
        assert said == ""
        yield
