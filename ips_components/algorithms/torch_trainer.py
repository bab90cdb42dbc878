"""PyTorch modules as estimators for `InTransit`; PyTorch is the optional extra ``torch``."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from ips_components.algorithms._estimator import Estimator
from ips_components.errors import AnalysisError

__all__ = ["TorchTrainer"]


class TorchTrainer(Estimator):
    """Train a PyTorch module batch by batch: ``InTransit(TorchTrainer(...)).fit(...)``.

    Parameters
    ----------
    module : torch.nn.Module
        From (samples, features) to predictions. It is copied and never changed.
    loss : callable
        ``loss(predictions, targets)``, such as ``torch.nn.MSELoss()``. Without targets the features
        are the targets: an autoencoder.
    optimizer : callable
        From the parameters to an optimizer: ``torch.optim.Adam``, or a ``functools.partial`` of it.
    epochs : int
        Passes over each batch.

    Raises
    ------
    AnalysisError
        If PyTorch is not installed, or `optimizer` is an optimizer already, which belongs to the
        parameters that were not copied.
    """

    def __init__(
        self, module: Any, loss: Callable[..., Any], optimizer: Callable[..., Any], epochs: int = 1
    ) -> None:
        torch = _torch()
        if isinstance(optimizer, torch.optim.Optimizer):
            raise AnalysisError(
                "optimizer must make an optimizer from parameters, got a "
                f"{type(optimizer).__name__}; give torch.optim.Adam, or "
                "functools.partial(torch.optim.Adam, lr=...)"
            )
        if epochs < 1:
            raise AnalysisError(f"epochs must be >= 1, got {epochs}")
        self.module = module
        self.loss = loss
        self.optimizer = optimizer
        self.epochs = epochs
        self._trained: Any = None  # a copy of the module, and its optimizer

    @property
    def trained(self) -> Any:
        """The trained module; the one given before there was any training."""
        return self.module if self._trained is None else self._trained[0]

    def partial_fit(self, x: np.ndarray, y: np.ndarray | None = None) -> Self:
        """Take one step of the optimizer for each epoch, with all of `x` as one batch."""
        torch = _torch()
        if self._trained is None:
            module = copy.deepcopy(self.module)
            self._trained = (module, self.optimizer(module.parameters()))
        module, optimizer = self._trained
        inputs = _tensor(module, x)
        wanted = inputs if y is None else _tensor(module, y)
        module.train()
        for _ in range(self.epochs):
            optimizer.zero_grad()
            with torch.enable_grad():
                found = module(inputs)
                value = self.loss(found.reshape(wanted.shape), wanted)
                value.backward()
            optimizer.step()
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the predictions of the module."""
        torch = _torch()
        module = self.trained.eval()
        with torch.no_grad():
            return np.asarray(module(_tensor(module, x)).numpy(), dtype=np.float64)

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Return `x`: the module goes to the code and back, see `inverse_transform`."""
        return np.asarray(x)

    def inverse_transform(self, x: np.ndarray) -> np.ndarray:
        """Return what an autoencoder makes of `x`."""
        return self.predict(x)

    def weights(self) -> dict[str, np.ndarray]:
        """Return parameters and buffers of the trained module by name, for ``run.send_model``."""
        return {name: each.detach().numpy() for name, each in self.trained.state_dict().items()}


def _tensor(module: Any, values: np.ndarray) -> Any:
    """Return values in the precision of the module."""
    torch = _torch()
    first = next(iter(module.parameters()), None)
    return torch.as_tensor(np.asarray(values), dtype=None if first is None else first.dtype)


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise AnalysisError(
            "TorchTrainer needs PyTorch: pip install 'ips_components[torch]'"
        ) from error
