"""Analyses for tests of the time loop."""


def series(arrays):
    """Sums over space of each array at each step, and over everything."""
    results = {f"{name}_series": array.sum(axis=1) for name, array in arrays.items()}
    return results | {f"{name}_total": array.sum() for name, array in arrays.items()}
