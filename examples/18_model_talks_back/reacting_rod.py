"""A reacting rod: the source term is expensive, and a model of it is learned in the same run.

mpiexec -n 2 python reacting_rod.py --steps 200

At every step a few cells, the probes, get the source term itself; the analysis learns from them.
All other cells get it from the model where the model may be used, see `source`.
"""

import argparse
from time import perf_counter

import numpy as np
from mpi4py import MPI

from ips_components.bridge import Array, Bridge

CELLS, EVERY = 32768, 256  # cells of the rod; one in so many is a probe
DIFFUSION, HEATER, SUBSTEPS = 0.4, 2e-3, 400
LOW, HIGH = 0.0, 4.0  # temperatures that the model is defined for


def chemistry(t):
    """The expensive term: heat from a reaction, which is followed until it is in balance."""
    rate = 0.2 * np.exp(1.0 - 1.0 / (0.2 + t))
    y = np.zeros_like(t)
    for _ in range(SUBSTEPS):
        y += 0.05 * (rate * (1.0 - y) - 0.5 * y)
    return 5e-3 * y - 1e-3 * t


class Term:
    """The source term of this rank's cells, from a model where it is good enough."""

    def __init__(self, n, tolerance):
        self.tolerance = tolerance
        self.probes = np.arange(EVERY // 2, n, EVERY)
        self.model, self.version = None, -1
        self.seconds, self.computed, self.fallbacks = 0.0, 0, 0

    def exactly(self, t):
        start = perf_counter()
        found = chemistry(t)
        self.seconds += perf_counter() - start
        self.computed += len(t)
        return found

    def source(self, t):
        """Return the source term, and its values at the probes, which are exact.

        The model is used in cells whose temperatures it was trained for, if its error on steps
        that it was not trained with, and its error at the probes now, are within the tolerance.
        """
        probes = self.exactly(t[self.probes])
        modelled = np.zeros(len(t), dtype=bool)
        found = np.empty_like(t)
        if self.model is not None and self.model["error"] <= self.tolerance:
            low, high = self.model["range"]
            modelled = (t >= low) & (t <= high)
            x = 2.0 * (t - LOW) / (HIGH - LOW) - 1.0
            found = np.polynomial.chebyshev.chebval(x, self.model["coefficients"])
            error = np.abs(found[self.probes] - probes)[modelled[self.probes]]
            if error.size and error.max() > self.tolerance:
                modelled[:] = False
                self.fallbacks += 1
        modelled[self.probes] = True
        found[self.probes] = probes
        found[~modelled] = self.exactly(t[~modelled])
        return found, probes


def main():
    comm = MPI.COMM_WORLD
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--wait-at", type=int, default=20, help="step that waits for a first model")
    parser.add_argument("--tolerance", type=float, default=1e-6, help="of the term, K per step")
    parser.add_argument("--without-model", action="store_true")
    parser.add_argument("--save", help="file of rank 0 for the last temperatures")
    args = parser.parse_args()

    first, last = (CELLS * r // comm.size for r in (comm.rank, comm.rank + 1))
    x = (np.arange(first, last) + 0.5) / CELLS
    rod = np.zeros(last - first + 2)
    rod[1:-1] = 0.5 + 0.4 * np.sin(2 * np.pi * x)
    left = comm.rank - 1 if comm.rank > 0 else MPI.PROC_NULL
    right = comm.rank + 1 if comm.rank < comm.size - 1 else MPI.PROC_NULL
    term = Term(last - first, args.tolerance)
    samples = Array(
        "samples",
        (CELLS // EVERY, 2),
        "f8",
        offset=(first // EVERY, 0),
        dims=("probe", "what"),
        steps=args.steps,
    )
    start = perf_counter()
    with Bridge(comm=comm, arrays=[samples]) as bridge:
        for step in range(args.steps):
            if not args.without_model:
                wait = None if step == args.wait_at else 0.0
                news = bridge.receive_model("source", newer_than=term.version, timeout=wait)
                if news is not None:
                    term.version, term.model = news
            t = rod[1:-1]
            source, probes = term.source(t)
            bridge.put("samples", step, np.stack([t[term.probes], probes], axis=1))
            rod[0], rod[-1] = rod[1], rod[-2]
            comm.Sendrecv(rod[1:2].copy(), left, recvbuf=rod[-1:], source=right)
            comm.Sendrecv(rod[-2:-1].copy(), right, recvbuf=rod[:1], source=left)
            heater = HEATER * (x < 0.25) if step >= args.steps // 2 else 0.0
            rod[1:-1] = t + DIFFUSION * (rod[:-2] - 2 * t + rod[2:]) + source + heater
    took = perf_counter() - start
    computed, seconds, fallbacks = (
        comm.allreduce(each) for each in (term.computed, term.seconds, term.fallbacks)
    )
    whole = comm.gather(rod[1:-1])
    if comm.rank == 0:
        cells = CELLS * args.steps
        print(f"source term: computed in {computed} of {cells} cells ({computed / cells:.1%})")
        print(f"source term: {seconds:.2f} s, for all cells {seconds / computed * cells:.2f}")
        print(f"model: version {term.version}, fell back {fallbacks} times; loop {took:.2f} s")
        if args.save:
            np.save(args.save, np.concatenate(whole))


if __name__ == "__main__":
    main()
