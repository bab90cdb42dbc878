"""A rank that has NumPy pays little for importing the bridge."""

import subprocess
import sys
import textwrap

FORBIDDEN = {"dask", "distributed", "xarray", "ipsframework", "mpi4py", "asyncio", "tempfile"}


def run(code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    ).stdout


def test_nothing_heavy_is_loaded():
    loaded = run("import sys, ips_components.bridge; print(*sys.modules)").split()
    assert not FORBIDDEN & {name.partition(".")[0] for name in loaded}


def test_what_no_put_needs_is_not_loaded():
    loaded = run("""
        import sys, numpy
        before = set(sys.modules)
        import ips_components.bridge
        print(*set(sys.modules) - before)
    """).split()
    lazy = {"by_id", "decomposition", "default_chunks"}  # few ranks, or none, need them
    assert not {f"ips_components.model.{name}" for name in lazy} & set(loaded)
    assert "numpy.typing" not in loaded


def test_memory_beside_numpy():
    """At most 10 MB (the time is measured by benchmarks/put_blocking.py)."""
    code = """
    import resource
    import numpy
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    import ips_components.bridge
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    assert min(int(run(code)) for _ in range(3)) < 10_000
