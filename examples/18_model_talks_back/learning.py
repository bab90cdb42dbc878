"""Learns the source term of the rod from its probes, and sends the model back to the ranks."""

import numpy as np
import xarray as xr

from ips_components.algorithms import InTransit

LOW, HIGH = 0.0, 4.0  # as in reacting_rod.py


class Chebyshev:
    """Least squares with Chebyshev polynomials, from sums that grow with the samples.

    Any estimator with ``partial_fit`` and ``predict`` does; this one needs NumPy only.
    """

    def __init__(self, degree):
        self.degree = degree
        self.gram, self.right = np.zeros((degree + 1, degree + 1)), np.zeros(degree + 1)
        self.range = np.array([np.inf, -np.inf])

    def basis(self, t):
        return np.polynomial.chebyshev.chebvander(2.0 * (t - LOW) / (HIGH - LOW) - 1.0, self.degree)

    def partial_fit(self, features, targets):
        t = features[:, 0]
        basis = self.basis(t)
        self.gram, self.right = self.gram + basis.T @ basis, self.right + basis.T @ targets
        self.range = np.array([min(self.range[0], t.min()), max(self.range[1], t.max())])
        return self

    @property
    def coefficients(self):
        return np.linalg.lstsq(self.gram, self.right, rcond=1e-13)[0]

    def predict(self, features):
        return self.basis(features[:, 0]) @ self.coefficients


def largest_error(model, features, targets):
    return float(np.abs(model.predict(features) - targets).max())


def learn(arrays, run, degree=12, every=10):
    """Train on `every` steps at a time; send each model with its error on held-out steps."""
    learner = InTransit(Chebyshev(int(degree)), hold_out=5, standardise=False, metric=largest_error)
    every = int(every)
    windows = run.rolling(arrays["samples"], every, stride=every)
    errors, steps = [], []
    for window in learner.follow(run, windows, lambda s: (s[:, :, :1], s[:, :, 1]), samples=(0, 1)):
        model, error = window.value.model.estimator, window.value.record.validation
        errors.append(error)
        steps.append(window.steps[-1])
        run.send_model(
            "source",
            {"coefficients": model.coefficients, "range": model.range, "error": 2 * error},
            version=window.steps[-1],
        )
    t = np.linspace(*model.range, 101)
    return {
        "error": xr.DataArray(errors, {"step": steps}, name="error", attrs={"units": "K"}),
        "source": xr.DataArray(
            model.predict(t[:, None]), {"temperature": t}, attrs={"units": "K per step"}
        ),
    }
