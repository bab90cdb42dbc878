"""Analyses of simulations that end when their time is over, at most 12 steps."""

from __future__ import annotations

import numpy as np

from ips_components.algorithms import running_moments


def adaptive(arrays):
    t = arrays["temperature"]
    return {
        "mean": t.mean(axis=0),
        "std": t.std(axis=0),
        "largest": (t * 2).max(axis=0),
        "last": t[-1],
        "change": t[-1] - t[0],
        "curve": t.mean(axis=(1, 2)),
        "corner": t[::3, 1:3, ::2],
        "variance": running_moments(t).variance,
        "labelled": t.to_xarray().mean("time"),
    }


def expected(field: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "mean": field.mean(axis=0),
        "std": field.std(axis=0),
        "largest": (field * 2).max(axis=0),
        "last": field[-1],
        "change": field[-1] - field[0],
        "curve": field.mean(axis=(1, 2)),
        "corner": field[::3, 1:3, ::2],
        "variance": field.var(axis=0),
        "labelled": field.mean(axis=0),
    }


def too_much(arrays):
    return {"median": np.median(arrays["temperature"], axis=0)}


def stopping(arrays, run):
    t = arrays["temperature"]
    run.commit({"first": t[0].mean(), "sum": t.sum(axis=0), "curve": t.mean(axis=(1, 2))})
    for name, _ in run.completed():
        if name == "first":
            run.stop("seen enough")
