"""PyTorch modules trained in transit; skipped where PyTorch is not installed."""

import sys
from functools import partial

import dask.array as da
import joblib
import numpy as np
import pytest

from ips_components.algorithms import InTransit
from ips_components.algorithms.torch_trainer import TorchTrainer
from ips_components.errors import AnalysisError


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch (extra torch) is not installed")
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(threads)


def rods(steps=120, cells=8):
    """Sixteen rods per step, with three degrees of freedom each, and their next time level."""
    rng = np.random.default_rng(0)
    u = rng.normal(size=(steps, 16, 3)) @ rng.normal(size=(3, cells))
    padded = np.pad(u, ((0, 0), (0, 0), (1, 1)))
    after = u + 0.3 * (padded[..., 2:] - 2 * u + padded[..., :-2])
    return da.from_array(u, (4, 8, cells)), da.from_array(after, (4, 16, cells))


def test_without_pytorch_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(AnalysisError, match=r"pip install 'ips_components\[torch\]'"):
        TorchTrainer(None, None, None)


def test_a_surrogate_of_the_time_step_is_learned(torch, tmp_path):
    u, after = rods()
    trainer = TorchTrainer(
        torch.nn.Linear(8, 8), torch.nn.MSELoss(), partial(torch.optim.Adam, lr=0.02), epochs=8
    )
    learner = InTransit(trainer, hold_out=10, reservoir=8, standardise=False)
    training = learner.fit(u, after, samples=(0, 1))
    curve = training.curve.compute()
    known = curve.validation[~np.isnan(curve.validation)]
    assert float(known[-1]) < 0.2 * float(known[0])
    model = training.model.compute()
    assert training.save(tmp_path / "model").compute() > 0
    loaded = joblib.load(tmp_path / "model.joblib")  # skops does not know PyTorch
    np.testing.assert_array_equal(loaded.predict(np.ones((1, 8))), model.predict(np.ones((1, 8))))
    assert model.predict(np.zeros((3, 8))).shape == (3, 8)
    assert set(model.estimator.weights()) == {"weight", "bias"}


def test_the_module_that_was_given_is_not_changed_and_seeds_repeat(torch):
    u, after = rods(40)
    module = torch.nn.Linear(8, 8)
    before = module.weight.detach().numpy().copy()
    trainer = TorchTrainer(module, torch.nn.MSELoss(), torch.optim.Adam)
    models = [InTransit(trainer).fit(u, after, samples=(0, 1)).model.compute() for _ in range(2)]
    np.testing.assert_array_equal(module.weight.detach().numpy(), before)
    first, second = (model.estimator.weights()["weight"] for model in models)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, before)


def test_an_autoencoder_has_no_targets_and_goes_on_from_a_checkpoint(torch):
    u, _ = rods()
    module = torch.nn.Sequential(torch.nn.Linear(8, 3), torch.nn.Linear(3, 8))
    trainer = TorchTrainer(module, torch.nn.MSELoss(), partial(torch.optim.Adam, lr=0.02), epochs=4)
    learner = InTransit(trainer, standardise=False)
    whole = learner.fit(u, samples=(0, 1))
    loss = whole.curve.loss.compute()
    assert float(loss[-1]) < 0.2 * float(loss[1])
    half = learner.fit(u[:60], samples=(0, 1)).checkpoint.compute()
    again = learner.fit(u[60:], samples=(0, 1), start=half).model.compute().estimator.weights()
    expected = whole.model.compute().estimator.weights()
    for name, values in expected.items():
        np.testing.assert_array_equal(again[name], values)


def test_optimizers_that_belong_to_other_parameters_are_refused(torch):
    module = torch.nn.Linear(2, 2)
    with pytest.raises(AnalysisError, match="must make an optimizer from parameters, got a Adam"):
        TorchTrainer(module, torch.nn.MSELoss(), torch.optim.Adam(module.parameters()))
