"""Parameters of estimators by name, in the manner that scikit-learn's tools expect."""

from __future__ import annotations

import inspect
from typing import Any, Self

from ips_components.errors import AnalysisError

__all__ = ["Estimator"]


class Estimator:
    """Base of estimators: every parameter of ``__init__`` is an attribute of the same name."""

    @classmethod
    def _parameter_names(cls) -> list[str]:
        return list(inspect.signature(cls).parameters)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Give the parameters by name; `deep` makes no difference, for none is an estimator."""
        return {name: getattr(self, name) for name in self._parameter_names()}

    def set_params(self, **parameters: Any) -> Self:
        """Set parameters by name and give the object itself."""
        names = self._parameter_names()
        if unknown := sorted(set(parameters) - set(names)):
            raise AnalysisError(f"unknown parameters {unknown}; there are {names}")
        for name, value in parameters.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({shown})"
