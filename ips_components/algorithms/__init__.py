"""Algorithms on dask arrays: dask in, dask out, nothing computed before it is asked for.

All of them follow one rule: the graph is built once for all time steps, each task needs a bounded
number of steps, and what is carried from step to step has a fixed size. So they run in transit, on
blocks that do not exist yet, in memory that does not grow with the length of the run.
"""

import warnings
from importlib import import_module
from typing import Any

from ips_components.algorithms.correlation import lag_correlation, moving_average
from ips_components.algorithms.derivative import time_derivative
from ips_components.algorithms.ensemble_statistics import (
    EnsembleStatistics,
    SobolIndices,
    ensemble_statistics,
    sobol_indices,
)
from ips_components.algorithms.histogram import Histogram, histogram
from ips_components.algorithms.incremental_pca import InSituIncrementalPCA
from ips_components.algorithms.learn import InTransit, TrainedModel, Training
from ips_components.algorithms.modes import DynamicModes, ProperModes, proper_modes
from ips_components.algorithms.moments import RunningMoments, running_moments
from ips_components.algorithms.quantiles import quantile_sketch
from ips_components.algorithms.spectrum import (
    IsotropicSpectrum,
    PowerSpectrum,
    isotropic_spectrum,
    power_spectrum,
)
from ips_components.algorithms.torch_trainer import TorchTrainer

__all__ = [
    "DynamicModes",
    "EnsembleStatistics",
    "Histogram",
    "InSituIncrementalPCA",
    "InTransit",
    "IsotropicSpectrum",
    "PowerSpectrum",
    "ProperModes",
    "RunningMoments",
    "SobolIndices",
    "TorchTrainer",
    "TrainedModel",
    "Training",
    "ensemble_statistics",
    "histogram",
    "isotropic_spectrum",
    "lag_correlation",
    "moving_average",
    "power_spectrum",
    "proper_modes",
    "quantile_sketch",
    "running_moments",
    "sobol_indices",
    "time_derivative",
]

_MOVED = {
    "PiEstimate": "monte_carlo",
    "count_inside": "monte_carlo",
    "monte_carlo_pi": "monte_carlo",
    "pi_from_counts": "monte_carlo",
    "delayed_eigenvalues": "eigenvalues",
    "eigenvalues": "eigenvalues",
    "ensemble_eigenvalues": "eigenvalues",
    "member_eigenvalues": "eigenvalues",
    "random_matrix": "eigenvalues",
}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = f"ips_components.examples.{_MOVED[name]}"
    warnings.warn(f"{__name__}.{name} has moved to {home}", DeprecationWarning, stacklevel=2)
    return getattr(import_module(home), name)
