"""Two networks that are trained while the simulation runs; they need PyTorch."""

from functools import partial
from pathlib import Path

import dask.array as da
import torch

from ips_components.algorithms import InTransit, TorchTrainer


def surrogate(arrays, run, rate=0.02, epochs=4):
    """Learn the time step: a cell's next temperature from its own and its neighbours'."""
    u = arrays["temperature"]
    now, inner = u[:-1], slice(1, -1)
    stencil = [
        now[:, inner, inner],
        now[:, :-2, inner],
        now[:, 2:, inner],
        now[:, inner, :-2],
        now[:, inner, 2:],
    ]
    torch.manual_seed(0)
    trainer = TorchTrainer(
        torch.nn.Linear(5, 1), torch.nn.MSELoss(), partial(torch.optim.Adam, lr=rate), epochs
    )
    learner = InTransit(trainer, reservoir=4, hold_out=5, standardise=False)
    training = learner.fit(
        da.stack(stencil, axis=-1), u[1:, inner, inner], samples=(0, 1, 2), batch=256
    )
    return results(training, run)


def autoencoder(arrays, run, code=4, rate=0.01, epochs=4):
    """Learn to say a whole field in a few numbers."""
    u = arrays["temperature"]
    cells = u.shape[1] * u.shape[2]
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(cells, code), torch.nn.Linear(code, cells))
    trainer = TorchTrainer(module, torch.nn.MSELoss(), partial(torch.optim.Adam, lr=rate), epochs)
    learner = InTransit(trainer, reservoir=4, hold_out=5, standardise=False)
    return results(learner.fit(u), run)


def results(training, run):
    """Give the learning curve, and write the model into the run's directory."""
    return {"curve": training.curve, "bytes": training.save(Path(run.settings.run_dir, "model"))}
