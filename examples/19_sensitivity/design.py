"""Saltelli's design: which parameters each member of the ensemble has."""

import numpy as np

PARAMETERS = {  # name: lowest and highest value
    "diffusion": (0.1, 0.4),
    "heater": (0.0, 0.02),  # K per substep
    "left wall": (0.0, 2.0),  # K
}


def members(rows, seed=0):
    """Return the parameters of the members A, B, A_B^1, ... of each row.

    Returns
    -------
    numpy.ndarray, shape (rows, parameters + 2, parameters)
    """
    low, high = np.array(list(PARAMETERS.values())).T
    a, b = np.random.default_rng(seed).uniform(low, high, size=(2, rows, len(low)))
    mixed = [np.where(np.arange(len(low)) == i, b, a) for i in range(len(low))]
    return np.stack([a, b, *mixed], axis=1)
