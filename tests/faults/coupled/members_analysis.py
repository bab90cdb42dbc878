"""Analysis for tests of simulations that may be left out."""

from ips_components.algorithms import ensemble_statistics


def analyse(arrays):
    """Statistics over all members, and the sum over space of each."""
    members = [arrays[name] for name in sorted(arrays)]
    found = ensemble_statistics(members)
    sums = {name: array.sum(axis=1) for name, array in arrays.items()}
    return {"mean": found.mean, "used": found.used, **sums}
