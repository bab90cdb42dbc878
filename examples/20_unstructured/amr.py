"""A front that moves through an adaptive mesh, with particles that it carries along.

mpiexec -n 2 python amr.py 12
"""

import sys

import numpy as np

TILES, CELLS, LEVELS = 4, 8, 3  # tiles along each side, cells of a block, levels
ROOM = 10  # particles that a cell of the particle code has room for


def density(y, x, step):
    """A front that moves outwards from a corner."""
    return 1 / (1 + np.exp(60 * (np.hypot(y, x) - 0.1 - 0.08 * step)))


def refined(level, place, step):
    """Blocks below a place, by level and place: those with the front in them are split."""
    side = TILES * 2**level
    corners = (place + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])) / side
    inside = np.hypot(*corners.T) < 0.1 + 0.08 * step
    if level == LEVELS - 1 or inside.all() or not inside.any():
        return [(level, *(place * CELLS))]
    children = [2 * place + np.array(each) for each in np.ndindex(2, 2)]
    return [block for child in children for block in refined(level + 1, child, step)]


def blocks(step, rank=0, size=1):
    """Cells, level and place of each block of a rank, at a step."""
    tiles = [np.array(tile) for tile in np.ndindex(TILES, TILES)][rank::size]
    table = np.array([block for tile in tiles for block in refined(0, tile, step)])
    cells = np.empty((len(table), CELLS, CELLS))
    for one, (level, y, x) in zip(cells, table, strict=True):
        side = TILES * CELLS * 2**level
        centre = (np.arange(CELLS) + 0.5) / side
        one[...] = density((y / side + centre)[:, None], x / side + centre, step)
    return cells, table[:, 0], table[:, 1:]


def particles(step, rank=0, size=1):
    """Cells with room for particles, and how many each of them has."""
    rng = np.random.default_rng((step, rank, size))
    counts = rng.integers(0, ROOM, 5)
    return rng.random((5, ROOM, 3)), counts


def main(steps):
    """Put blocks and particles of this rank at each step."""
    from mpi4py import MPI

    from ips_components.bridge import Array, Bridge, Rows

    comm = MPI.COMM_WORLD
    front = Array("front", (-1, CELLS, CELLS), ragged=True, levels=LEVELS, steps=steps)
    atoms = Array("atoms", (-1, 3), ragged=True, steps=steps)
    with Bridge(comm=comm, arrays=[front, atoms]) as bridge:
        for step in range(steps):
            cells, levels, places = blocks(step, comm.rank, comm.size)
            bridge.put("front", step, cells, levels=levels, places=places)
            room, counts = particles(step, comm.rank, comm.size)
            used = np.arange(ROOM) < counts[:, None]
            bridge.put("atoms", step, Rows(room.reshape(-1, 3), used.ravel()))


if __name__ == "__main__":
    main(int(sys.argv[1]))
