"""An analysis of your own: a function from arrays that do not exist yet to lazy results."""

import numpy as np
import xarray as xr


def modes(arrays, n_modes=4):
    """Amplitudes of the first modes of a string at every step, and how much of it they make up.

    Parameters
    ----------
    arrays : mapping of str to dask.array.Array
        ``displacement`` of shape (time, x), from one end of the string to the other.
    n_modes : int
        Number of modes.

    Returns
    -------
    dict of str to xarray.DataArray
        Lazy: ``amplitudes`` (time, mode), and ``share`` (time) of the mean square in them.
    """
    u = arrays["displacement"].to_xarray()  # with names: (time, x), and its steps as coordinate
    points = u.sizes["x"]
    mode = np.arange(1, n_modes + 1)
    shapes = xr.DataArray(
        np.sin(np.pi * mode[:, None] * np.arange(points) / (points - 1)),
        dims=("mode", "x"),
        coords={"mode": mode},
    )
    amplitudes = 2 / (points - 1) * (u * shapes).sum("x")
    share = (amplitudes**2).sum("mode") / (2 * (u**2).sum("x") / (points - 1))
    amplitudes.attrs["long_name"] = "amplitude"
    share.attrs["long_name"] = "share of the first modes"
    return {"amplitudes": amplitudes.transpose("time", "mode"), "share": share}
