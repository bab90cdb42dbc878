"""Windows over a run of unknown length."""

import numpy as np
import xarray as xr


def warming(arrays, run, size=5):
    """Mean of every window of `size` steps, and the mean over all of them, carried along."""
    rolling = run.rolling(arrays["temperature"], size, stride=size)

    def update(total, window):
        """Take the state before a window, and the window; give the state after it and an output."""
        return total + window.sum(axis=0), window.mean()

    means, steps = [], []
    for window in rolling.scan(update, 0.0):
        means.append(float(window.value))
        steps.append(window.steps[-1])
    mean = xr.DataArray(np.array(means), dims="step", coords={"step": steps}, attrs={"units": "K"})
    profile = xr.DataArray(rolling.state / (size * len(means)), dims="x", attrs={"units": "K"})
    return {"mean": mean, "profile": profile}
