"""Public codes of other projects, coupled by the patches in ``examples/public_codes``."""

import os
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest
from c_ranks import RUN, coupling
from public_codes import found, needs, patched, run

from ips_components.bridge import _config
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.spec import ArraySpec, StepAxis

LIMIT = 60

pytestmark = pytest.mark.timeout(500)


def flags(capsys, monkeypatch, directory):
    """What the patches get from ips-components-config."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
    found = []
    for option in ("--cflags", "--libs"):
        assert _config.main([option]) == 0
        found.append(capsys.readouterr().out.strip())
    return found


def couple(command, sink, directory, steps):
    """Run a code with an analysis that wants all of so many steps; its output and the contract."""
    limits = {"contract": LIMIT, "connect": 20.0}
    with coupling(directory, [sink], deadlines=limits) as (contact, (receiver,)):
        environment = {**os.environ, "IPS_COMPONENTS_CONTACT": str(contact)}
        pipe = subprocess.PIPE
        command = list(map(str, command))
        with subprocess.Popen(
            command,
            env=environment,
            cwd=directory,
            stdout=pipe,
            stderr=subprocess.STDOUT,
            text=True,
        ) as code:
            said = []
            reading = threading.Thread(target=lambda: said.append(code.stdout.read()))
            reading.start()
            try:
                sink.wait(lambda: sink.arrays, LIMIT)
                specs = [
                    ArraySpec(
                        **{
                            **one,
                            "shape": tuple(one["shape"]),
                            "steps": StepAxis(0, one["steps"]["every"], steps),
                        }
                    )
                    for one in sink.arrays[0]
                ]
                contract = Contract(RUN, tuple(ArrayContract.agree(s, run=RUN) for s in specs))
                receiver.set_contract(contract)
                assert code.wait(200) == 0
            finally:
                code.kill()
                reading.join()
        assert all(bye.status == "ok" for bye in sink.byes.values())
        return said[0], contract


@needs("LULESH", "mpicxx", "mpiexec")
def test_lulesh(sinks, tmp_path, capsys, monkeypatch):
    """The energy of the origin after the last step is what LULESH prints of it."""
    cflags, libs = flags(capsys, monkeypatch, tmp_path)
    folder = patched("LULESH", tmp_path)
    options = [f"CXXFLAGS=-O1 -I. {cflags}", f"LDFLAGS={libs}"]
    run("make", "-s", f"MPICXX={found('mpicxx')} -DUSE_MPI=1", *options, cwd=folder)
    (sink,) = sinks()
    program = [found("mpiexec"), "-n", 8, folder / "lulesh2.0", "-s", 4, "-i", 6]
    said, contract = couple(program, sink, tmp_path, 6)
    (array,) = contract.arrays
    assert (array.spec.shape, array.spec.dims) == ((8, 8, 8), ("time", "z", "y", "x"))
    last = sink.chunks[0, 5][0]
    printed = float(re.search(r"Final Origin Energy =\s*(\S+)", said)[1])
    assert last[0, 0, 0] == pytest.approx(printed, rel=1e-5)
    np.testing.assert_allclose(last, last.transpose(2, 1, 0), rtol=1e-6)  # the blast is symmetric


@needs("CoMD", "mpicc", "mpiexec")
def test_comd(sinks, tmp_path, capsys, monkeypatch):
    """The momenta have the kinetic energy that CoMD prints, at every step."""
    cflags, libs = flags(capsys, monkeypatch, tmp_path)
    folder = patched("CoMD", tmp_path)
    options = [f"CC={found('mpicc')}", "OPTFLAGS=-O1", f"OTHER_INCLUDE={cflags}"]
    (folder / "bin").mkdir()
    shutil.copy(folder / "src-mpi" / "Makefile.vanilla", folder / "src-mpi" / "Makefile")
    run("make", "-s", *options, f"OTHER_LIB={libs}", cwd=folder / "src-mpi")
    (sink,) = sinks()
    size = ["-x", 10, "-y", 8, "-z", 8, "-i", 2, "-j", 1, "-k", 1]
    program = [found("mpiexec"), "-n", 2, folder / "bin" / "CoMD-mpi", *size, "-N", 30, "-n", 10]
    said, contract = couple(program, sink, tmp_path, 3)
    (array,) = contract.arrays
    assert array.spec.ragged
    # step, time, energies per atom: total, potential, kinetic
    printed = re.findall(r"^ +\d+ +[\d.]+ +\S+ +\S+ +([\d.]+) ", said, flags=re.MULTILINE)
    mass = (
        63.55 * 1.66053886e-27 / 1.602176565e-19 * 1e-20 * 1e30
    )  # of copper, eV fs^2 / Angstrom^2
    for step in range(3):
        (rows,) = sink.chunks[0, step]
        assert rows.shape == (4 * 10 * 8 * 8, 3)
        kinetic = (rows**2).sum(axis=1).mean() / (2 * mass)
        assert kinetic == pytest.approx(float(printed[step]), rel=1e-7)
    del rows
