"""Heat in a square plate on a 2-D grid of MPI ranks, coupled to its analysis by three calls.

The equation is dT/dt = D (d2T/dx2 + d2T/dy2) + S(x, y, t) on a plate of 1 m x 1 m, where T is the
temperature above ambient in K, D the diffusivity in m2/s and S the heating in K/s by spots that
wander or pulsate. Explicit finite differences on cell centres, x_i = (i + 1/2) dx: forward Euler in
time, second order in space. Step s is the field at the time s * dt; step 0 is the initial state.

    mpiexec -n 4 python heat2d.py --no-coupling --posthoc field.npy

heat2d.c and heat2d.f90 take the same options and give the same bits. That is why exp and sin are
taken from `math` (the C library's, as in those two) and not from NumPy (its own), and why the
parentheses stand where they stand.
"""

import argparse
import math
import sys
import time
import traceback
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from mpi4py import MPI

SIZE = 1.0  # m, edge of the plate
SPOT = 0.08  # m, radius of a heat source
INSULATED = "insulated"


def main():
    comm = MPI.COMM_WORLD
    args = parse_on_rank_0(comm)

    # The decomposition: `cart` is the grid of ranks, this rank has h x w cells from (y0, x0) on.
    # T is the block with a rim of one cell, where the neighbours' edges or the walls go.
    cart = comm.Create_cart([args.py, args.px])
    (y0, h), (x0, w) = (
        (n * c // p, n * (c + 1) // p - n * c // p)
        for n, p, c in zip((args.ny, args.nx), cart.dims, cart.coords, strict=True)
    )
    dx, dy = SIZE / args.nx, SIZE / args.ny
    x = [(i + 0.5) * dx for i in range(x0, x0 + w)]
    y = [(j + 0.5) * dy for j in range(y0, y0 + h)]
    ax = args.diffusivity * args.dt / (dx * dx)
    ay = args.diffusivity * args.dt / (dy * dy)
    T = np.zeros((h + 2, w + 2))
    if args.first > 0:
        T[1:-1, 1:-1] = np.load(args.state, mmap_mode="r")[0, y0 : y0 + h, x0 : x0 + w]
    else:
        T[1:-1, 1:-1] = initial_state(args.initial, x, y)

    with (
        coupling(args, comm, (y0, x0)) as bridge,
        shared_npy(args.posthoc, args, comm, (h, w), (y0, x0)) as npy,
    ):
        start = time.perf_counter()
        for step in range(args.first, args.steps):
            if step > 0:
                T = advance(T, cart, args.boundary, ax, ay)
                heat(T, args, (step - 1) * args.dt, x, y)
            if step % args.every == 0:
                if bridge is not None:
                    bridge.put("temperature", step, T)
                if npy is not None:
                    npy.Write_all(T[1:-1, 1:-1].copy())
            time.sleep(args.pace / 1000)
        seconds = time.perf_counter() - start
    with shared_npy(args.state, args, comm, (h, w), (y0, x0), times=1) as npy:
        if npy is not None:
            npy.Write_all(T[1:-1, 1:-1].copy())
    if comm.rank == 0:
        print(
            f"heat2d: {args.steps - args.first} steps of {args.nx} x {args.ny} cells on"
            f" {args.px} x {args.py} ranks, dt = {args.dt:.6g} s, computed in {seconds:.2f} s"
        )


def advance(T, cart, boundary, ax, ay):
    """Fill the rim of `T` and return the field one step of diffusion later."""
    fill_rim(T, cart, boundary)
    new = np.zeros_like(T)
    centre = T[1:-1, 1:-1]
    west, east = T[1:-1, :-2], T[1:-1, 2:]
    south, north = T[:-2, 1:-1], T[2:, 1:-1]
    along_x = (west - 2.0 * centre) + east
    along_y = (south - 2.0 * centre) + north
    new[1:-1, 1:-1] = centre + (ax * along_x + ay * along_y)
    return new


def fill_rim(T, cart, boundary):
    """Exchange the rim with the four neighbours; at a wall, extrapolate it from the last cells."""
    west_wall, east_wall, south_wall, north_wall = boundary
    for axis, lower_wall, upper_wall in ((0, south_wall, north_wall), (1, west_wall, east_wall)):
        A = T if axis == 0 else T.T  # a view in which A[0] and A[-1] are the rims of this axis
        lower, upper = cart.Shift(axis, 1)
        received = np.empty(A.shape[1])
        cart.Sendrecv(A[1].copy(), lower, recvbuf=received, source=upper)
        A[-1] = received if upper != MPI.PROC_NULL else behind(upper_wall, A[-2])
        cart.Sendrecv(A[-2].copy(), upper, recvbuf=received, source=lower)
        A[0] = received if lower != MPI.PROC_NULL else behind(lower_wall, A[1])


def behind(wall, cells):
    """Image behind a wall, which is half a cell away: the mean of both is the wall's temperature.

    Behind an insulated wall the image equals the cells, so that no heat flows.
    """
    return cells if wall == INSULATED else 2.0 * wall - cells


def heat(T, args, t, x, y):
    """Add what the sources give between `t` and `t + dt`: pairs of a hot and a cold spot, a pulse.

    A Gaussian spot is the product of its profiles along y and x.
    """
    phase = 2.0 * math.pi * t / args.period
    a, b, c = 0.3 * math.sin(phase), 0.2 * math.sin(2.0 * phase), 0.3 * math.sin(3.0 * phase)
    for name, strength, x_spot, y_spot in (
        ("eight", 1.0, 0.5 + a, 0.5 + b),
        ("eight", -1.0, 0.5 - a, 0.5 + b),
        ("sweep", 0.7, 0.2, 0.5 + c),
        ("sweep", -0.7, 0.2, 0.5 - c),
        ("pulse", math.sin(4.0 * phase), 0.75, 0.75),
    ):
        if name in args.source:
            gain = args.dt * args.power * strength
            along_x = np.array(gaussian(x, x_spot, SPOT))
            along_y = np.array(gaussian(y, y_spot, SPOT))
            T[1:-1, 1:-1] += (gain * along_y)[:, None] * along_x


def gaussian(points, centre, width):
    return [math.exp(-0.5 * (((p - centre) / width) * ((p - centre) / width))) for p in points]


def initial_state(kind, x, y):
    """Zero, a Gaussian of 1 K, or the mode sin(pi x) sin(pi y), whose decay is known exactly."""
    if kind == "zero":
        return 0.0
    if kind == "gaussian":
        along_x, along_y = gaussian(x, 0.5, 0.1), gaussian(y, 0.5, 0.1)
    else:
        along_x, along_y = [math.sin(math.pi * p) for p in x], [math.sin(math.pi * p) for p in y]
    return np.array(along_y)[:, None] * np.array(along_x)


def coupling(args, comm, offset):
    """The bridge to the analysis, which knows what this rank has, or nothing."""
    if args.no_coupling:
        return nullcontext()
    from ips_components.bridge import Array, Bridge

    temperature = Array(
        "temperature",
        shape=(args.ny, args.nx),
        dtype="f8",
        offset=offset,
        halo=1,
        dims=("y", "x"),
        steps=range(args.first, args.steps, args.every),
        attrs={"units": "K", "long_name": "temperature above ambient"},
    )
    return Bridge(comm=comm, arrays=[temperature])


@contextmanager
def shared_npy(path, args, comm, shape, offset, times=None):
    """One .npy file of shape (time, y, x) that all ranks write together, or nothing."""
    if path is None:
        yield None
        return
    times = times or len(range(args.first, args.steps, args.every))
    about = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({times}, {args.ny}, {args.nx})}}"
    header = b"\x93NUMPY\x01\x00\x76\x00" + about.ljust(117).encode() + b"\n"
    block = MPI.DOUBLE.Create_subarray([args.ny, args.nx], list(shape), list(offset)).Commit()
    npy = MPI.File.Open(comm, path, MPI.MODE_CREATE | MPI.MODE_WRONLY)
    npy.Set_size(0)
    if comm.rank == 0:
        npy.Write_at(0, header)
    npy.Set_view(len(header), MPI.DOUBLE, block)
    yield npy
    npy.Close()
    block.Free()


def parse_on_rank_0(comm):
    """Rank 0 reads the command line and complains once; the others get what it found."""
    args, code = None, None
    if comm.rank == 0:
        try:
            args = parse(comm.size)
        except SystemExit as stop:
            code = stop.code
    args, code = comm.bcast((args, code))
    if code is not None:
        sys.exit(code)
    return args


def parse(size):
    parser = argparse.ArgumentParser(description="2-D heat equation on MPI ranks")
    parser.add_argument("--nx", type=int, default=64, help="cells along x (64)")
    parser.add_argument("--ny", type=int, default=64, help="cells along y (64)")
    parser.add_argument("--steps", type=int, default=200, help="time levels, the first at t = 0")
    parser.add_argument("--dt", type=float, help="time step in s (half of the stable limit)")
    parser.add_argument("--diffusivity", type=float, default=1.1e-4, help="m2/s (copper: 1.1e-4)")
    parser.add_argument("--px", type=int, default=0, help="ranks along x (MPI chooses)")
    parser.add_argument("--py", type=int, default=0, help="ranks along y (MPI chooses)")
    parser.add_argument("--source", default="eight,sweep,pulse", help="some of these, or none")
    parser.add_argument("--power", type=float, default=1.0, help="heating by a source in K/s (1)")
    parser.add_argument("--period", type=float, help="of the sources in s (a third of the run)")
    parser.add_argument(
        "--boundary",
        nargs=4,
        default=["2", "0", INSULATED, INSULATED],
        metavar=("WEST", "EAST", "SOUTH", "NORTH"),
        help="temperature of each wall in K, or insulated (2 0 insulated insulated)",
    )
    parser.add_argument("--initial", choices=["zero", "gaussian", "sine"], default="zero")
    parser.add_argument("--every", type=int, default=1, help="publish every n-th step (1)")
    parser.add_argument("--pace", type=float, default=0.0, help="extra time per step in ms (0)")
    parser.add_argument("--posthoc", metavar="FILE.npy", help="write the published steps, too")
    parser.add_argument("--state", metavar="FILE.npy", help="keep the last field, to go on from it")
    parser.add_argument("--first", type=int, default=0, help="first step; beyond 0: from --state")
    parser.add_argument("--no-coupling", action="store_true", help="run alone")
    args = parser.parse_args()

    for name in ("nx", "ny", "steps", "every", "diffusivity"):
        if getattr(args, name) <= 0:
            parser.error(f"--{name} must be positive, got {getattr(args, name)}")
    if not 0 <= args.first < args.steps or args.first % args.every:
        parser.error(f"--first must be a published step below {args.steps}, got {args.first}")
    if args.first > 0 and (args.state is None or not Path(args.state).exists()):
        parser.error(f"--first {args.first} needs the field of the step before in --state")
    dx, dy = SIZE / args.nx, SIZE / args.ny
    limit = 0.5 / (args.diffusivity * (1.0 / (dx * dx) + 1.0 / (dy * dy)))
    if args.dt is None:
        args.dt = 0.5 * limit
    if not 0.0 < args.dt <= limit:
        parser.error(f"--dt must be > 0 and <= {limit:.6g} s to be stable, got {args.dt:.6g}")
    if args.period is None:
        args.period = args.steps * args.dt / 3.0
    try:
        args.boundary = [b if b == INSULATED else float(b) for b in args.boundary]
    except ValueError:
        parser.error(f"--boundary takes numbers or {INSULATED}, got {' '.join(args.boundary)}")
    args.source = [] if args.source == "none" else args.source.split(",")
    if unknown := set(args.source) - {"eight", "sweep", "pulse"}:
        parser.error(f"--source takes eight, sweep, pulse or none, got {', '.join(unknown)}")
    if args.px == 0 and args.py == 0:
        args.py, args.px = MPI.Compute_dims(size, 2)
    elif args.px == 0 or args.py == 0:
        args.px, args.py = args.px or size // args.py, args.py or size // args.px
    if args.px * args.py != size or not (0 < args.px <= args.nx and 0 < args.py <= args.ny):
        parser.error(
            f"--px {args.px} x --py {args.py} must make {size} ranks, each with at least one cell"
            f" of the {args.nx} x {args.ny}"
        )
    return args


if __name__ == "__main__":
    try:
        main()
    except Exception:  # the other ranks wait for this one for ever unless MPI ends them
        traceback.print_exc()
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)
        sys.exit(1)  # MPI_Abort of MPICH 5 returns
