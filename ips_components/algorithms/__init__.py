"""Algorithms on dask arrays: dask in, dask out, nothing computed before it is asked for."""

from ips_components.algorithms.incremental_pca import InSituIncrementalPCA

__all__ = ["InSituIncrementalPCA"]
