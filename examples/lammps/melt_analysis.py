"""Structure and motion of atoms: radial distribution, mean square displacement, velocities.

Written for ragged arrays, in which a chunk holds the atoms of some ranks at one step, in any order.
`blockwise` gives each step's kernel the chunks of all ranks, joined; nothing else meets.
All lengths in sigma, times in tau, as in LAMMPS's units `lj`.

References: M. P. Allen and D. J. Tildesley, Computer Simulation of Liquids, 2nd ed. (2017),
section 2.6 (pair distribution) and section 2.7 (time correlations, Einstein relation).
"""

import dask.array as da
import numpy as np
import xarray as xr


def analysis(arrays, *, box, r_max=2.5, bins=50, interval=1.0):
    """What melts and how fast.

    Parameters
    ----------
    arrays : mapping
        ``ids`` of shape (time, atom), ``positions`` (unwrapped) and ``velocities`` of shape
        (time, atom, 3); all ragged along atoms.
    box : float
        Edge of the periodic cube.
    r_max, bins : float, int
        Range and resolution of the radial distribution function; r_max <= box / 2.
    interval : float
        Time between two published steps.

    Returns
    -------
    dict of str to xarray.DataArray
        Lazy: ``rdf`` (time, r), ``rdf_mean`` (r), ``msd`` (time), ``vacf`` (time),
        ``temperature`` (time).
    """
    ids, x, v = (arrays[name] for name in ("ids", "positions", "velocities"))
    box, r_max, bins = float(box), float(r_max), int(bins)
    if not 0.0 < r_max <= box / 2:
        raise ValueError(f"r_max must be > 0 and <= half the box, {box / 2}, got {r_max}")

    g = da.blockwise(
        _rdf_of_step, "tr", x, "tnc",
        new_axes={"r": bins}, box=box, r_max=r_max, bins=bins, **_JOINED,
    )  # fmt: skip
    msd = _against_first(_squared_distance, x, ids)
    vacf = _against_first(_product, v, ids)
    temperature = da.blockwise(_temperature_of_step, "t", v, "tnc", **_JOINED)

    edges = np.linspace(0.0, r_max, bins + 1)
    time = ("time", np.arange(x.shape[0]) * float(interval), {"units": "tau"})
    r = ("r", 0.5 * (edges[1:] + edges[:-1]), {"units": "sigma"})
    about = {
        "rdf": (g, ("time", "r"), "radial distribution function", ""),
        "rdf_mean": (g.mean(axis=0), ("r",), "mean radial distribution function", ""),
        "msd": (msd, ("time",), "mean square displacement", "sigma2"),
        "vacf": (vacf, ("time",), "velocity autocorrelation", "sigma2/tau2"),
        "temperature": (temperature, ("time",), "temperature", "epsilon/k"),
    }
    coords = {"time": time, "r": r}
    return {
        name: xr.DataArray(
            values,
            dims=dims,
            coords={dim: coords[dim] for dim in dims},
            attrs={"long_name": long_name, "units": units},
        )
        for name, (values, dims, long_name, units) in about.items()
    }


#: A kernel gets the chunks along dimensions that its result lacks joined into one array. Numbers of
#: atoms are unknown beforehand, so dask is not to compare them.
_JOINED = {"concatenate": True, "align_arrays": False, "dtype": float, "meta": np.empty(0)}


def radial_distribution(x, box, r_max, bins):
    """Density of neighbours at a distance, relative to the mean density, of one configuration.

    Parameters
    ----------
    x : ndarray, shape (n, 3)
    box : float
    r_max, bins : float, int

    Returns
    -------
    ndarray, shape (bins,)
    """
    n = len(x)
    counts = np.zeros(bins, dtype=np.int64)
    for begin in range(0, n, 128):  # some rows of the matrix of distances at a time
        apart = x[begin : begin + 128, None, :] - x[None, begin + 1 :, :]
        apart -= box * np.round(apart / box)
        i, j = np.tril_indices(apart.shape[0], -1, apart.shape[1])
        r2 = np.einsum("ijk,ijk->ij", apart, apart)
        r2[i, j] = np.inf  # each pair once: j > i
        counts += np.histogram(np.sqrt(r2[r2 < r_max * r_max]), bins, (0.0, r_max))[0]
    edges = np.linspace(0.0, r_max, bins + 1)
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    return 2.0 * counts / (n * (n - 1) / box**3 * shells)


def _rdf_of_step(x, box, r_max, bins):
    return radial_distribution(x[0], box, r_max, bins)[None]


def _temperature_of_step(v):
    """Of atoms of mass 1 whose total momentum is zero: 3 n - 3 degrees of freedom."""
    return np.array([(v[0] ** 2).sum() / (3 * v.shape[1] - 3)])


def _against_first(kernel, rows, ids):
    """A mean over atoms of what `kernel` makes of an atom's row now and at the first step."""
    first_rows, first_ids = rows[:1], ids[:1]
    return da.blockwise(
        _matched, "t", rows, "tnc", ids, "tn", first_rows, "smd", first_ids, "sm",
        kernel=kernel, **_JOINED,
    )  # fmt: skip


def _matched(rows, ids, first_rows, first_ids, kernel):
    now, first = np.argsort(ids[0]), np.argsort(first_ids[0])
    if not np.array_equal(ids[0][now], first_ids[0][first]):
        raise ValueError(f"{ids.shape[1]} atoms now, {first_ids.shape[1]} at first: not the same")
    return np.array([kernel(rows[0][now], first_rows[0][first])])


def _squared_distance(now, first):
    return ((now - first) ** 2).sum(axis=1).mean()


def _product(now, first):
    return (now * first).sum(axis=1).mean()
