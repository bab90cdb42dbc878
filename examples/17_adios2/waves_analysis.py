"""Energy and mean shape of waves on a membrane, from fields that need not be stored."""


def energy(arrays):
    """Kinetic part of the energy, largest height and mean shape.

    Parameters
    ----------
    arrays : mapping of str to dask.array.Array
        ``height`` (mm) and ``speed`` of shape (time, y, x), ``time`` of shape (time,).

    Returns
    -------
    dict of str to dask.array.Array
        Lazy: ``kinetic`` (time), ``highest`` (time), ``mean_height`` (y, x), ``time`` (time).
    """
    height, speed = arrays["height"], arrays["speed"]
    return {
        "kinetic": (speed.astype("f8") ** 2).mean(axis=(1, 2)) / 2,
        "highest": abs(height).max(axis=(1, 2)),
        "mean_height": height.mean(axis=0),
        "time": arrays["time"][:],
    }
