"""Ensembles of the examples: pi from random points, eigenvalues of random matrices."""

from collections.abc import Iterator, Mapping
from typing import Any

from ips_components.ips.ensemble import Ensemble

__all__ = ["Eigenvalues", "MonteCarloPi"]


class MonteCarloPi(Ensemble):
    """The number pi from ``TASKS`` tasks of ``POINTS`` random points each; ``SEED`` counts up."""

    def members(self) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
        """Yield one task for each seed."""
        from ips_components.examples.monte_carlo import count_inside

        for task in range(int(self.TASKS)):
            yield f"points_{task}", count_inside, (int(self.POINTS), int(self.SEED) + task)

    def conclude(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``value`` and its standard ``error``."""
        from ips_components.examples.monte_carlo import pi_from_counts

        value, error = pi_from_counts([int(count) for count in found.values()], int(self.POINTS))
        return {"value": value, "error": error, "summary": f"pi = {value:.5f} +- {error:.5f}"}


class Eigenvalues(Ensemble):
    """Eigenvalues of ``MEMBERS`` random matrices of ``SIZE`` x ``SIZE``; ``SEED`` counts up.

    ``SYMMETRIC = True``: real eigenvalues, which follow the semicircle law between -1 and 1.
    """

    def members(self) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
        """Yield one task for each matrix."""
        from ips_components.examples.eigenvalues import member_eigenvalues

        symmetric = self.SYMMETRIC == "True"
        for member in range(int(self.MEMBERS)):
            arguments = (int(self.SIZE), int(self.SEED) + member, symmetric)
            yield f"matrix_{member}", member_eigenvalues, arguments

    def conclude(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Return real and imaginary parts of all ``eigenvalues``, and their second ``moment``."""
        import numpy as np

        values = np.stack([found[f"matrix_{member}"] for member in range(len(found))])
        moment = float((np.abs(values) ** 2).mean())
        return {
            "eigenvalues": {"real": values.real.tolist(), "imaginary": values.imag.tolist()},
            "moment": moment,
            "summary": f"{values.shape[0]} matrices, mean square of the eigenvalues {moment:.4f}",
        }
