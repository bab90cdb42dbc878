"""Diffusion on a mesh of triangles: each rank has the points of its triangles, in any order.

mpiexec -n 3 python mesh.py 40
"""

import sys

import numpy as np

N = 24  # points along each side of the square
DT = 0.1 / N**2


def mesh():
    """Points, and triangles by the ids of their points, which are in no order at all."""
    rng = np.random.default_rng(1)
    y, x = np.divmod(np.arange(N * N), N)
    at = np.stack([x, y], axis=1) / (N - 1)
    inner = ((at > 0) & (at < 1)).all(axis=1)
    at[inner] += rng.uniform(-0.2, 0.2, (inner.sum(), 2)) / (N - 1)
    corners = np.arange(N * N).reshape(N, N)
    a, b, c, d = corners[:-1, :-1], corners[:-1, 1:], corners[1:, :-1], corners[1:, 1:]
    halves = [np.stack(three, axis=-1).reshape(-1, 3) for three in ((a, b, c), (b, d, c))]
    ids = rng.permutation(N * N)
    points = np.empty_like(at)
    points[ids] = at
    return points, ids[np.concatenate(halves)]


def stiffness(points, triangles):
    """Area of each triangle, and its stiffness matrix for linear elements."""
    p = points[triangles]
    edges = np.roll(p, -2, axis=1) - np.roll(p, -1, axis=1)
    area = np.abs(edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]) / 2
    return area, np.einsum("eid,ejd->eij", edges, edges) / (4 * area)[:, None, None]


def partition(points, triangles, rank, size):
    """The triangles of one rank: a strip of the square."""
    x = points[triangles, 0].mean(axis=1)
    return triangles[(x * size).astype(int).clip(0, size - 1) == rank]


def states(steps, rank=0, size=1, together=lambda values: values):
    """Ids of the rank's points, and their values at each step."""
    points, triangles = mesh()
    mine = partition(points, triangles, rank, size)
    area, matrices = stiffness(points, mine)
    mass, u = np.zeros(N * N), np.exp(-20 * ((points - 0.5) ** 2).sum(axis=1))
    np.add.at(mass, mine, np.repeat(area[:, None] / 3, 3, axis=1))
    mass = together(mass)
    ids = np.random.default_rng(rank).permutation(np.unique(mine))
    for _ in range(steps):
        yield ids, u[ids]
        flux = np.zeros(N * N)
        np.add.at(flux, mine, np.einsum("eij,ej->ei", matrices, u[mine]))
        u = u - DT * together(flux) / mass


def main(steps):
    """Put the points of this rank at each step."""
    from mpi4py import MPI

    from ips_components.bridge import Array, Bridge

    comm = MPI.COMM_WORLD
    # Points between two partitions are at both ranks: they belong to the lower one.
    u = Array("u", (N * N,), ids=True, shared="low", dims=("point",), steps=steps)
    with Bridge(comm=comm, arrays=[u]) as bridge:
        every = states(steps, comm.rank, comm.size, lambda values: comm.allreduce(values))
        for step, (ids, values) in enumerate(every):
            bridge.put("u", step, values, ids=ids)


if __name__ == "__main__":
    main(int(sys.argv[1]))
