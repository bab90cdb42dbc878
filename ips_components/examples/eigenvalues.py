"""Eigenvalues of an ensemble of matrices, one task for each member or for each chunk."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
from dask.delayed import Delayed

from ips_components.errors import AnalysisError

__all__ = [
    "delayed_eigenvalues",
    "eigenvalues",
    "ensemble_eigenvalues",
    "member_eigenvalues",
    "random_matrix",
]


def random_matrix(size: int, seed: int, symmetric: bool = False) -> np.ndarray:
    """Draw a matrix of independent normal entries, scaled so that its spectrum has radius one.

    General matrices follow the circular law as the size grows. Symmetric ones follow the semicircle
    law, between -1 and 1 (Mehta, Random Matrices, 3rd ed., 2004, chapters 4 and 15).
    """
    matrix = np.random.default_rng(seed).standard_normal((size, size)) / np.sqrt(size)
    return (matrix + matrix.T) / np.sqrt(8) if symmetric else matrix


def eigenvalues(matrices: np.ndarray, symmetric: bool = False) -> np.ndarray:
    """Eigenvalues of a matrix or a stack of matrices (..., n, n), in a fixed order.

    Symmetric: real, ascending. Else complex, ascending by real part, then by imaginary part.
    """
    if symmetric:
        return np.linalg.eigvalsh(matrices)
    return np.sort(np.linalg.eigvals(matrices).astype(np.complex128), axis=-1)


def member_eigenvalues(size: int, seed: int, symmetric: bool = False) -> np.ndarray:
    """Make a random matrix where the task runs, and give its eigenvalues: for tasks of a pool.

    Only two numbers travel to the worker and only `size` numbers come back.
    """
    return eigenvalues(random_matrix(size, seed, symmetric), symmetric)


def delayed_eigenvalues(
    members: int, size: int, seed: int = 0, symmetric: bool = False
) -> list[Delayed]:
    """Give one delayed call of `member_eigenvalues` for each member; seeds count up from `seed`."""
    task = dask.delayed(member_eigenvalues, pure=True)
    return [task(size, seed + member, symmetric) for member in range(members)]


def ensemble_eigenvalues(matrices: da.Array, symmetric: bool = False) -> da.Array:
    """Eigenvalues of a dask array of matrices (members, n, n), as (members, n).

    One task per chunk of members; the chunks of a matrix are merged.
    """
    if matrices.ndim < 2 or matrices.shape[-1] != matrices.shape[-2]:
        raise AnalysisError(f"expected square matrices (..., n, n), got {matrices.shape}")
    matrices = matrices.rechunk({matrices.ndim - 2: -1, matrices.ndim - 1: -1})
    dtype = np.float64 if symmetric else np.complex128
    return da.map_blocks(
        eigenvalues,
        matrices,
        symmetric=symmetric,
        dtype=dtype,
        drop_axis=matrices.ndim - 1,
        meta=np.empty((0,) * (matrices.ndim - 1), dtype=dtype),
    )
