"""Running the heat example under MPI, and its physics once more in one process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from ips_components.ips_compat import guard

HEAT2D = Path(__file__).parents[2] / "examples" / "heat2d"
PYTHON = [sys.executable, str(HEAT2D / "heat2d.py")]


def mpiexec(nproc):
    """Command that starts `nproc` ranks, by preference of the MPI in this environment.

    A guard removes the shared memory that MPI leaves where one rank aborts the others.
    """
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    guarded = [sys.executable, "-I", "-S", guard.__file__, "--parent", str(os.getpid()), "--"]
    return [*guarded, launcher, "-n", str(nproc)]


def run(nproc, *options, program=PYTHON, timeout=60):
    """Run an example to its end and return the finished process, output captured as text."""
    command = [*mpiexec(nproc), *program, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def posthoc(directory, nproc, *options, program=PYTHON):
    """Run without coupling and return what was written: float64 of shape (time, y, x)."""
    path = Path(directory) / "field.npy"
    done = run(nproc, "--no-coupling", "--posthoc", path, *options, program=program)
    if done.returncode != 0:
        raise RuntimeError(
            f"{program} on {nproc} ranks ended with {done.returncode}\n{done.stderr}"
        )
    return np.load(path)


def field(
    nx=64,
    ny=64,
    steps=200,
    *,
    dt=None,
    diffusivity=1.1e-4,
    source=("eight", "sweep", "pulse"),
    power=1.0,
    period=None,
    boundary=(2.0, 0.0, None, None),
    initial="zero",
    every=1,
):
    """Serial reference of the published field, shape (time, y, x), float64, in K.

    The defaults are those of the command line; ``None`` in `boundary` (west, east, south, north)
    is an insulated wall. Written apart from the example (with `numpy.pad` and NumPy's own exp and
    sin), so the two agree to rounding, not to the bit.
    """
    dx, dy = 1.0 / nx, 1.0 / ny
    dt = dt or 0.25 / (diffusivity * (1 / dx**2 + 1 / dy**2))
    period = period or steps * dt / 3
    y, x = np.meshgrid((np.arange(ny) + 0.5) * dy, (np.arange(nx) + 0.5) * dx, indexing="ij")

    def spot(x_spot, y_spot, radius):
        return np.exp(-((x - x_spot) ** 2 + (y - y_spot) ** 2) / (2 * radius**2))

    def heating(t):
        phi = 2 * np.pi * t / period
        a, b, c = 0.3 * np.sin(phi), 0.2 * np.sin(2 * phi), 0.3 * np.sin(3 * phi)
        by_name = {
            "eight": spot(0.5 + a, 0.5 + b, 0.08) - spot(0.5 - a, 0.5 + b, 0.08),
            "sweep": 0.7 * (spot(0.2, 0.5 + c, 0.08) - spot(0.2, 0.5 - c, 0.08)),
            "pulse": np.sin(4 * phi) * spot(0.75, 0.75, 0.08),
        }
        return power * sum((by_name[name] for name in source), np.zeros_like(x))

    T = {
        "zero": np.zeros_like(x),
        "gaussian": spot(0.5, 0.5, 0.1),
        "sine": np.sin(np.pi * x) * np.sin(np.pi * y),
    }[initial]
    fields = []
    for step in range(steps):
        if step > 0:
            west, east, south, north = boundary
            P = np.pad(T, 1, mode="edge")
            if west is not None:
                P[:, 0] = 2 * west - P[:, 1]
            if east is not None:
                P[:, -1] = 2 * east - P[:, -2]
            if south is not None:
                P[0] = 2 * south - P[1]
            if north is not None:
                P[-1] = 2 * north - P[-2]
            second_x = np.diff(P[1:-1], 2, axis=1) / dx**2
            second_y = np.diff(P[:, 1:-1], 2, axis=0) / dy**2
            T = T + dt * (diffusivity * (second_x + second_y) + heating((step - 1) * dt))
        if step % every == 0:
            fields.append(T)
    return np.array(fields)
